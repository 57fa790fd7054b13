"""`mmes compare`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from multimodal_embedding_serving.cli.options import Json
from multimodal_embedding_serving.monitoring.progress import show_stages
from multimodal_embedding_serving.settings import Settings


def compare(
    first: Annotated[str, typer.Argument(help="A bundle's folder, a model, or a server's URL.")],
    second: Annotated[str, typer.Argument(help="The same: what the first is compared to.")],
    api_key: Annotated[str | None, typer.Option(help="Sent to servers.")] = None,
    as_json: Json = False,
) -> None:
    """Tell whether two models' vectors may stand in one index: 0 yes, 3 no."""
    from multimodal_embedding_serving.diagnostics.compare import compare as measure

    with show_stages() as show:
        found = measure(first, second, Settings.from_env(), api_key=api_key, progress=show)
    typer.echo(json.dumps(found.facts()) if as_json else found.report())
    raise typer.Exit(0 if found.comparable else 3)
