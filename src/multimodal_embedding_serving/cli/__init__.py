"""The command `mmes`: one module per command, named after it.

Exit status: 0 success; 1 the command failed (the reason is the last line on stderr), or `search`
found nothing; 2 wrong usage; 3 from `compare` if the models are not comparable; 4 from `embed` or
`classify` if some inputs could not be embedded and others could; 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import sys
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from multimodal_embedding_serving.cli import (
    bench,
    bundle,
    classify,
    compare,
    convert,
    doctor,
    duplicates,
    embed,
    indexes,
    models,
    samples,
    search,
    serve,
    tune,
)
from multimodal_embedding_serving.cli.exit import leave
from multimodal_embedding_serving.cli.help import GROUPS, Command, Group, epilog
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.settings import find_unknown_variables

REPORT_VARIABLES = ("serve", "doctor")
"""Commands that report variables without effect in their own way: in the log, as findings."""

app = typer.Typer(
    name="mmes",
    help="Embed text, images and video into one vector space.",
    cls=Group,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"mmes {installed_version('multimodal-embedding-serving')}")
        raise typer.Exit


@app.callback()
def _main_options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options of `mmes` itself; typer shows the help text given above instead."""
    if context.invoked_subcommand not in REPORT_VARIABLES:
        for sentence in find_unknown_variables():
            typer.echo(f"mmes: warning: {sentence}", err=True)


for command in (
    serve.serve,
    embed.embed,
    classify.classify,
    search.search,
    duplicates.duplicates,
    indexes.indexes,
    samples.samples,
    models.models,
    convert.convert,
    compare.compare,
    bundle.bundle,
    tune.tune,
    bench.bench,
    doctor.doctor,
):
    name = command.__name__
    app.command(cls=Command, epilog=epilog(name), rich_help_panel=GROUPS[name])(command)


def main() -> None:
    """Run the command line; report an error as a message and a status, without a traceback."""
    try:
        app()
    except EmbeddingError as error:
        typer.echo(f"mmes: {error}", err=True)
        leave(1)
    except OSError as error:  # such as a full disk, or a folder without write permission
        path = f": {error.filename}" if error.filename else ""
        typer.echo(f"mmes: {error.strerror}{path}", err=True)
        sys.exit(1)
