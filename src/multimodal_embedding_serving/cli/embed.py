"""`mmes embed`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from multimodal_embedding_serving.cli.options import (
    ApiKey,
    Device,
    Frames,
    FramesPerSecond,
    Json,
    Kinds,
    Model,
    Server,
    ask,
)
from multimodal_embedding_serving.cli.ray import on_cluster
from multimodal_embedding_serving.cli.reports import SOME_FAILED, progress, report
from multimodal_embedding_serving.monitoring.logs import set_up_logging
from multimodal_embedding_serving.monitoring.progress import Work, show_work

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk import models
    from multimodal_embedding_serving.bulk.job import Options, Tally
    from multimodal_embedding_serving.bulk.listing import Listing
    from multimodal_embedding_serving.bulk.output import Output


class Precision(StrEnum):
    """Of stored numbers."""

    f32 = "f32"
    f16 = "f16"


class Change(StrEnum):
    """What tells that a file has changed."""

    date = "date"
    content = "content"


class Store(StrEnum):
    """A vector store."""

    lancedb = "lancedb"
    qdrant = "qdrant"


Items = Annotated[
    list[str] | None,
    typer.Argument(
        help="Texts, files, folders, globs, URLs, lists (.jsonl, .csv, .parquet); - is stdin."
    ),
]
Text = Annotated[list[str] | None, typer.Option(help="A text, whatever it looks like.")]
Out = Annotated[
    str | None,
    typer.Option(help="A file: .parquet (extra bulk), .npy or .jsonl. A second run goes on."),
]
To = Annotated[Store | None, typer.Option(help="--out is such a store's folder or URL.")]
Table = Annotated[str, typer.Option(help="The store's table or collection.")]
Only = Annotated[list[Kinds] | None, typer.Option("--kind", help="Take only these from folders.")]
Numbers = Annotated[Precision, typer.Option("--dtype", help="Of stored numbers.")]
Changed = Annotated[Change, typer.Option(help="Changed files: by size and date, or by content.")]
Drop = Annotated[bool, typer.Option("--drop-removed", help="Drop the rows of files that are gone.")]
Retry = Annotated[bool, typer.Option("--retry", help="Try again what failed before.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over, overwriting --out.")]
Ray = Annotated[
    str | None,
    typer.Option(help="A Ray cluster's address (auto, local) to work on; --out is a folder."),
]
Every = Annotated[int, typer.Option(min=1, help="Vectors that a killed job may have to repeat.")]


def embed(
    items: Items = None,
    text: Text = None,
    out: Out = None,
    to: To = None,
    table: Table = "vectors",
    kind: Only = None,
    dtype: Numbers = Precision.f32,
    changed: Changed = Change.date,
    drop_removed: Drop = False,
    retry: Retry = False,
    fresh: Fresh = False,
    publish_every: Every = 2048,
    frames: Frames = None,
    fps: FramesPerSecond = None,
    model: Model = None,
    device: Device = None,
    server: Server = None,
    api_key: ApiKey = None,
    ray: Ray = None,
    as_json: Json = False,
) -> None:
    """Embed texts, images and videos: a JSON object per vector on stdout, in order, or --out."""
    asked = ask(model, device, server, api_key, frames, fps)
    if ray is not None:
        unfit = text or to or kind or server or retry or drop_removed
        where = None if unfit else out
        on_cluster(ray, items or [], where, asked, dtype.value, fresh=fresh, as_json=as_json)
        return
    listing = _listing(items or [], text or [], kind, by_content=changed is Change.content)
    if out is None:
        _print(listing, asked.open, to)
    options = _options(dtype, asked.recipe, publish_every, retry=retry, drop=drop_removed)
    output = _output(out, to, table)
    set_up_logging(asked.settings.log_format, asked.settings.log_level)
    tally = _write(listing, asked.open, output, options, fresh=fresh)
    report(tally, out, as_json)


def _options(dtype: Precision, recipe: str, part_rows: int, *, retry: bool, drop: bool) -> Options:
    from multimodal_embedding_serving.bulk.job import Options

    return Options(
        dtype=dtype.value,
        retry=retry,
        removed="drop" if drop else "keep",
        part_rows=part_rows,
        recipe=recipe,
    )


def _listing(
    items: list[str], texts: list[str], only: list[Kinds] | None, *, by_content: bool
) -> Listing:
    from multimodal_embedding_serving.bulk.items import KINDS, mark_by_content, mark_by_date
    from multimodal_embedding_serving.bulk.listing import Listing

    if not items and not texts:
        raise typer.BadParameter("name something to embed")
    return Listing(
        tuple(items),
        tuple(texts),
        kinds=tuple(each.value for each in only) if only else KINDS,
        mark=mark_by_content if by_content else mark_by_date,
        stdin=sys.stdin,
    )


def _output(out: str, to: Store | None, table: str) -> Output:
    if to is None:
        from multimodal_embedding_serving.bulk.output import FileOutput

        return FileOutput(Path(out))
    from multimodal_embedding_serving.bulk.stores import open_store

    return open_store(to.value, out, table)


def _print(
    listing: Listing,
    open_model: Callable[[], Callable[[], Awaitable[models.Model]]],
    to: Store | None,
) -> NoReturn:
    if to is not None:
        raise typer.BadParameter("--to needs --out, the store's folder or URL")
    failed, done = asyncio.run(_lines(listing, open_model()))
    raise typer.Exit(0 if not failed else SOME_FAILED if done else 1)


async def _lines(
    listing: Listing, open_model: Callable[[], Awaitable[models.Model]]
) -> tuple[int, int]:
    """Vectors as lines on stdout, what failed on stderr -> how many items failed and did not."""
    from multimodal_embedding_serving.bulk.formats import json_lines
    from multimodal_embedding_serving.bulk.schema import Layout, Rows
    from multimodal_embedding_serving.bulk.stream import Answer, Refusal
    from multimodal_embedding_serving.bulk.stream import embed as embedded

    model = await open_model()
    layout = Layout.of(model.identity)
    failed = done = 0
    try:
        async with aclosing(embedded(listing, model)) as results:
            async for result in results:
                if isinstance(result, Answer):
                    rows, item = Rows(), result.item
                    rows.add(item.key, item.kind, result.vectors, result.frames)
                    sys.stdout.buffer.writelines(json_lines(rows, layout))
                    sys.stdout.buffer.flush()
                    done += 1
                    continue
                failed += 1
                key = result.item.key if isinstance(result, Refusal) else result.key
                typer.echo(f"mmes: {key}: {result.error.message}", err=True)
    finally:
        await model.aclose()
    return failed, done


def _write(
    listing: Listing,
    open_model: Callable[[], Callable[[], Awaitable[models.Model]]],
    output: Output,
    options: Options,
    *,
    fresh: bool,
) -> Tally:
    from multimodal_embedding_serving.bulk.job import run

    opened = open_model()

    async def work(show: Callable[[Work], None]) -> Tally:
        def watch(tally: Tally, total: int | None) -> None:
            show(progress(tally, total))

        model = await opened()
        try:
            return await run(listing, model, output, options, fresh=fresh, watch=watch)
        finally:
            await model.aclose()

    with show_work("embedding") as show:
        try:
            return asyncio.run(work(show))
        except KeyboardInterrupt:
            typer.echo("mmes: interrupted; the same command goes on from here", err=True)
            raise
