"""`mmes compare`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from multimodal_embedding_serving.cli.completion import complete_model
from multimodal_embedding_serving.cli.options import Json
from multimodal_embedding_serving.monitoring.progress import show_stages
from multimodal_embedding_serving.settings import Settings


def compare(
    first: Annotated[
        str,
        typer.Argument(
            help="A model, a bundle folder, or a server URL.", autocompletion=complete_model
        ),
    ],
    second: Annotated[
        str, typer.Argument(help="Another one to compare with.", autocompletion=complete_model)
    ],
    api_key: Annotated[str | None, typer.Option(help="API key for the servers.")] = None,
    as_json: Json = False,
) -> None:
    """Check whether two models' embeddings are comparable (exit 0: yes, 3: no)."""
    from multimodal_embedding_serving.diagnostics.compare import compare as measure

    with show_stages() as show:
        comparison = measure(first, second, Settings.from_env(), api_key=api_key, progress=show)
    typer.echo(json.dumps(comparison.facts()) if as_json else comparison.report())
    raise typer.Exit(0 if comparison.comparable else 3)
