"""The command `mmes`: one module a command, named after it.

Exit status: 0 done; 1 refused or failed (the reason is on stderr); 2 wrong usage or settings;
3 from `compare` where the two are not comparable; 4 from `embed` where some inputs failed and
others did not; 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import sys

import typer

from multimodal_embedding_serving.cli import (
    bench,
    bundle,
    compare,
    convert,
    doctor,
    embed,
    models,
    search,
    serve,
    tune,
)
from multimodal_embedding_serving.errors import EmbeddingError, SettingsError

app = typer.Typer(
    name="mmes",
    help="Text, images and video as vectors in one space.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (
    serve.serve,
    embed.embed,
    search.search,
    models.models,
    convert.convert,
    compare.compare,
    bundle.bundle,
    tune.tune,
    bench.bench,
    doctor.doctor,
):
    app.command()(command)


def main() -> None:
    """Run the command line; a refusal is a message and a status, never a stack."""
    try:
        app()
    except EmbeddingError as error:
        typer.echo(f"mmes: {error}", err=True)
        sys.exit(2 if isinstance(error, SettingsError) else 1)
    except OSError as error:  # a full disk, a folder that may not be written
        where = f": {error.filename}" if error.filename else ""
        typer.echo(f"mmes: {error.strerror}{where}", err=True)
        sys.exit(1)
