"""`mmes search`."""

from __future__ import annotations

import asyncio
import json
import os
import re
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
from multimodal_embedding_serving.cli.reports import clock, progress, report_failures
from multimodal_embedding_serving.monitoring.logs import set_up_logging
from multimodal_embedding_serving.monitoring.progress import Work, show_work

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk import models
    from multimodal_embedding_serving.bulk.job import Tally
    from multimodal_embedding_serving.bulk.search import ImageQuery, SearchResult

Query = Annotated[
    str, typer.Argument(help="What to search for: a description, or an image (a file or a URL).")
]
Folder = Annotated[Path, typer.Argument(help="Folder to search, including subfolders.")]
Top = Annotated[int, typer.Option("--top", "-n", min=1, help="Number of files to show.")]
Minimum = Annotated[
    float, typer.Option("--min", min=-1, max=1, help="Lowest similarity (cosine) to show.")
]
Page = Annotated[
    Path | None, typer.Option("--html", help="Write a page with thumbnails to this file.")
]
AsText = Annotated[bool, typer.Option("--text", help="Search for QUERY as a text, even a path.")]


def search(
    query: Query,
    folder: Folder = Path(),
    top: Top = 10,
    minimum: Minimum = -1,
    page: Page = None,
    as_text: AsText = False,
    frames: Frames = None,
    fps: FramesPerSecond = None,
    model: Model = None,
    device: Device = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Search images and videos by a text description or an image (indexes new files only)."""
    from multimodal_embedding_serving.bulk.search import check_folder

    wanted = query if as_text else _read_query(query)
    check_folder(folder)  # before the model is loaded
    options = model_options(model, device, server, api_key, frames, fps)
    set_up_logging(options.settings.log_format, options.settings.log_level)
    embedder = options.open_model()
    with show_work("indexing") as show:
        work = _search(wanted, folder, embedder, options, show, top=top, minimum=minimum)
        result = asyncio.run(work)
    if page is not None:
        from multimodal_embedding_serving.cli.search_page import write_page

        write_page(page, query, result.matches, options.settings)
    if as_json:
        facts = [match.facts() for match in result.matches]
        typer.echo(json.dumps({"matches": facts, "index": result.tally.facts()}))
    else:
        _print(result)
    _finish(result, minimum, page)


def _read_query(query: str) -> str | ImageQuery:
    """An image if it is a file or a URL, else a description.

    Raises InvalidInput for another kind of file, NotFound for what looks like a missing one.
    """
    from multimodal_embedding_serving.bulk.items import kind_of_file, looks_like_files
    from multimodal_embedding_serving.bulk.search import ImageQuery
    from multimodal_embedding_serving.errors import InvalidInput, NotFound
    from multimodal_embedding_serving.inputs.media_access import is_url

    hint = "(to search for it as a text, use --text)"
    if is_url(query):
        return ImageQuery(query)
    if os.path.isfile(query):  # noqa: PTH113 - any text may be a query
        if kind_of_file(query) != "image":
            raise InvalidInput(f"{query}: not an image {hint}")
        return ImageQuery(Path(query))
    if looks_like_files(query) and not re.search(r"\s", query):
        raise NotFound(f"{query}: no such image {hint}")
    return query


async def _search(
    query: str | ImageQuery,
    folder: Path,
    model: models.Model,
    options: ModelOptions,
    show: Callable[[Work], None],
    *,
    top: int,
    minimum: float,
) -> SearchResult:
    """Search, and close the model."""
    from multimodal_embedding_serving.bulk.search import search as search_folder

    def watch(tally: Tally, total: int | None) -> None:
        show(progress(tally, total))

    place, recipe = options.settings.search_dir, options.recipe
    try:
        return await search_folder(
            query, folder, model, place, top=top, minimum=minimum, recipe=recipe, watch=watch
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


def _finish(result: SearchResult, minimum: float, page: Path | None) -> None:
    """Say what was left out; raise typer.Exit if nothing was found."""
    if page is not None:
        typer.echo(f"wrote {page}", err=True)
    if result.tally.errors:
        report_failures(result.tally.reasons, result.tally.errors_file)
    if result.matches:
        return
    if result.best is None:
        typer.echo("mmes: no images or videos to search", err=True)
    else:
        nearest = f"the most similar file has {result.best:.3f}"
        typer.echo(f"mmes: nothing has a similarity of {minimum:g} (--min); {nearest}", err=True)
    raise typer.Exit(1)
