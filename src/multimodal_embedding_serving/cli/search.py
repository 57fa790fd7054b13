"""`mmes search`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multimodal_embedding_serving.cli.options import (
    ApiKey,
    Device,
    Frames,
    FramesPerSecond,
    Json,
    Model,
    ModelOptions,
    Server,
    model_options,
)
from multimodal_embedding_serving.cli.reports import clock, progress
from multimodal_embedding_serving.monitoring.logs import set_up_logging
from multimodal_embedding_serving.monitoring.progress import Work, show_work

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk import models
    from multimodal_embedding_serving.bulk.job import Tally
    from multimodal_embedding_serving.bulk.search import SearchResult

Description = Annotated[str, typer.Argument(help="Text description to search for.")]
Folder = Annotated[Path, typer.Argument(help="Folder to search, including subfolders.")]
Top = Annotated[int, typer.Option("--top", "-n", min=1, help="Number of files to show.")]


def search(
    description: Description,
    folder: Folder = Path(),
    top: Top = 10,
    frames: Frames = None,
    fps: FramesPerSecond = None,
    model: Model = None,
    device: Device = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Search images and videos by text description (indexes new files only)."""
    options = model_options(model, device, server, api_key, frames, fps)
    set_up_logging(options.settings.log_format, options.settings.log_level)
    embedder = options.open_model()
    with show_work("indexing") as show:
        result = asyncio.run(_search(description, folder, top, options, embedder, show))
    if as_json:
        facts = [match.facts() for match in result.matches]
        typer.echo(json.dumps({"matches": facts, "index": result.tally.facts()}))
    else:
        _print(result)


async def _search(
    description: str,
    folder: Path,
    top: int,
    options: ModelOptions,
    model: models.Model,
    show: Callable[[Work], None],
) -> SearchResult:
    """Search, and close the model."""
    from multimodal_embedding_serving.bulk.search import search as search_folder

    def watch(tally: Tally, total: int | None) -> None:
        show(progress(tally, total))

    place, recipe = options.settings.search_dir, options.recipe
    try:
        return await search_folder(
            description, folder, model, place, top=top, recipe=recipe, watch=watch
        )
    finally:
        await model.aclose()


def _print(result: SearchResult) -> None:
    here = Path.cwd()
    for match in result.matches:
        path = Path(match.path)
        name = path.relative_to(here) if path.is_relative_to(here) else path
        time = "" if match.timestamp is None else f"  at {clock(match.timestamp)}"
        typer.echo(f"{match.similarity:6.3f}  {name}{time}")
    if not result.matches:
        typer.echo("mmes: no images or videos to search", err=True)
    if result.tally.errors:
        typer.echo(f"mmes: could not embed {result.tally.errors:,} files", err=True)
