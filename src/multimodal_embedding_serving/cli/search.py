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
    Server,
    ask,
)
from multimodal_embedding_serving.cli.reports import progress
from multimodal_embedding_serving.monitoring.logs import set_up_logging
from multimodal_embedding_serving.monitoring.progress import Work, show_work

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk.job import Tally
    from multimodal_embedding_serving.bulk.search import Found

Description = Annotated[str, typer.Argument(help="What to look for, in words.")]
Folder = Annotated[Path, typer.Argument(help="Where: its photos and videos, at any depth.")]
Top = Annotated[int, typer.Option("--top", "-n", min=1, help="How many files to show.")]


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
    """Find photos and videos by a description; what was embedded before is not again."""
    from multimodal_embedding_serving.bulk.search import search as find

    asked = ask(model, device, server, api_key, frames, fps)
    set_up_logging(asked.settings.log_format, asked.settings.log_level)
    opened = asked.open()

    async def work(show: Callable[[Work], None]) -> Found:
        def watch(tally: Tally, total: int | None) -> None:
            show(progress(tally, total))

        embedder = await opened()
        try:
            place = asked.settings.search_dir
            return await find(
                description, folder, embedder, place, top=top, recipe=asked.recipe, watch=watch
            )
        finally:
            await embedder.aclose()

    with show_work("indexing") as show:
        found = asyncio.run(work(show))
    if as_json:
        facts = [match.facts() for match in found.matches]
        typer.echo(json.dumps({"matches": facts, "index": found.tally.facts()}))
    else:
        _show(found)


def _show(found: Found) -> None:
    here = Path.cwd()
    for match in found.matches:
        path = Path(match.path)
        shown = path.relative_to(here) if path.is_relative_to(here) else path
        place = "" if match.timestamp is None else f"  at {clock(match.timestamp)}"
        typer.echo(f"{match.similarity:6.3f}  {shown}{place}")
    if not found.matches:
        typer.echo("mmes: there is nothing to search", err=True)
    if found.tally.errors:
        typer.echo(f"mmes: {found.tally.errors:,} files can't be embedded", err=True)


def clock(seconds: float) -> str:
    """1:05:09.2, or 0:07.5."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
