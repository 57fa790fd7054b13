"""`mmes embed`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

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
from multimodal_embedding_serving.cli.ray import on_cluster
from multimodal_embedding_serving.cli.reports import (
    SOME_FAILED,
    clock,
    progress,
    report,
    report_failures,
)
from multimodal_embedding_serving.monitoring.logs import set_up_logging
from multimodal_embedding_serving.monitoring.progress import Work, show_work

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk import models
    from multimodal_embedding_serving.bulk.job import Options, Tally
    from multimodal_embedding_serving.bulk.ledger import ErrorRecord
    from multimodal_embedding_serving.bulk.listing import Listing
    from multimodal_embedding_serving.bulk.output import Output
    from multimodal_embedding_serving.bulk.schema import Rows


DType = Literal["f32", "f16"]
Change = Literal["date", "content"]
Store = Literal["lancedb", "qdrant"]


MAX_NAME = 60
"""Characters of an input that a shortened line shows."""
SHORT_NUMBERS = 3
"""Of a vector, on a shortened line."""


class Kind(StrEnum):
    """The kinds of `bulk.items.ITEM_KINDS`: Typer does not support a list of Literal."""

    text = "text"
    image = "image"
    video = "video"


Items = Annotated[
    list[str] | None,
    typer.Argument(
        help="Texts, files, folders, globs, URLs, lists (.jsonl, .csv, .parquet), or - for stdin.",
    ),
]
Text = Annotated[list[str] | None, typer.Option(help="Text to embed, even if it is a file name.")]
Out = Annotated[
    str | None,
    typer.Option(help="Output file: .parquet (extra: bulk), .npy or .jsonl; rerun to resume."),
]
To = Annotated[
    Store | None, typer.Option(help="Vector store to write to; --out is its folder or URL.")
]
Table = Annotated[str, typer.Option(help="Table or collection in the vector store.")]
Only = Annotated[
    list[Kind] | None,
    typer.Option("--kind", help="Embed only this kind of file from folders and globs."),
]
DTypeOption = Annotated[DType, typer.Option("--dtype", help="Data type of stored vectors.")]
Changed = Annotated[
    Change, typer.Option(help="Detect changed files by size and date, or by content.")
]
Drop = Annotated[
    bool, typer.Option("--drop-removed", help="Remove the rows of deleted files from the output.")
]
Retry = Annotated[bool, typer.Option("--retry", help="Retry inputs that failed in an earlier run.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over and overwrite --out.")]
Ray = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to run on: an address, auto (find one) or local (start one); "
        "--out is a folder."
    ),
]
Every = Annotated[int, typer.Option(min=1, help="Checkpoint every N vectors.")]


def embed(
    items: Items = None,
    text: Text = None,
    out: Out = None,
    to: To = None,
    table: Table = "vectors",
    kind: Only = None,
    dtype: DTypeOption = "f32",
    changed: Changed = "date",
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
    """Embed texts, images and videos; print a JSON line per vector, or write a file (--out)."""
    selected = model_options(model, device, server, api_key, frames, fps)
    if ray is not None:
        unsupported = text or to or kind or server or retry or drop_removed
        folder = None if unsupported else out
        on_cluster(ray, items or [], folder, selected, dtype, fresh=fresh, as_json=as_json)
        return
    must_exist = out is not None or bool(kind)
    listing = _listing(items or [], text or [], kind, changed, must_exist=must_exist)
    if out is None:
        _print(listing, selected, to, short=sys.stdout.isatty() and not as_json)
    options = _options(dtype, selected.recipe, publish_every, retry=retry, drop=drop_removed)
    output = _output(out, to, table)
    set_up_logging(selected.settings.log_format, selected.settings.log_level)
    tally = _write(listing, selected.open_model(), output, options, fresh=fresh)
    report(tally, out, as_json)


def _options(dtype: DType, recipe: str, part_rows: int, *, retry: bool, drop: bool) -> Options:
    from multimodal_embedding_serving.bulk.job import Options

    return Options(
        dtype=dtype,
        retry=retry,
        removed="drop" if drop else "keep",
        part_rows=part_rows,
        recipe=recipe,
    )


def _listing(
    items: list[str],
    texts: list[str],
    only: list[Kind] | None,
    changed: Change,
    *,
    must_exist: bool,
) -> Listing:
    """Raises NotFound for an argument that must exist and does not."""
    from multimodal_embedding_serving.bulk.items import ITEM_KINDS, mark_by_content, mark_by_date
    from multimodal_embedding_serving.bulk.listing import Listing

    if not items and not texts:
        raise typer.BadParameter("no input: pass texts, files, folders or URLs, or use --text")
    listing = Listing(
        tuple(items),
        tuple(texts),
        kinds=tuple(each.value for each in only) if only else ITEM_KINDS,
        mark=mark_by_content if changed == "content" else mark_by_date,
        stdin=sys.stdin,
        bare_texts=not must_exist,
    )
    if must_exist:
        listing.check()
    return listing


def _output(out: str, to: Store | None, table: str) -> Output:
    if to is None:
        from multimodal_embedding_serving.bulk.output import FileOutput

        return FileOutput(Path(out))
    from multimodal_embedding_serving.bulk.stores import open_store

    return open_store(to, out, table)


def _print(listing: Listing, selected: ModelOptions, to: Store | None, *, short: bool) -> NoReturn:
    if to is not None:
        raise typer.BadParameter("--to requires --out, the store's folder or URL")
    errors, done = asyncio.run(_print_lines(listing, selected.open_model(), short=short))
    if len(errors) > 1:
        from multimodal_embedding_serving.bulk.output import count_reasons

        report_failures(count_reasons(errors))
    raise typer.Exit(0 if not errors else SOME_FAILED if done else 1)


async def _print_lines(
    listing: Listing, model: models.Model, *, short: bool
) -> tuple[list[ErrorRecord], int]:
    """Print vectors to stdout and errors to stderr -> the errors and the count of successes.

    `short` prints the first numbers of each vector: whole ones would flood a terminal.
    """
    from multimodal_embedding_serving.bulk.formats import json_lines
    from multimodal_embedding_serving.bulk.schema import Layout, Rows
    from multimodal_embedding_serving.bulk.stream import Answer, Refusal
    from multimodal_embedding_serving.bulk.stream import embed as embed_items

    layout = Layout.of(model.identity)
    errors: list[ErrorRecord] = []
    done = 0
    try:
        async with aclosing(embed_items(listing, model)) as results:
            async for result in results:
                if isinstance(result, Answer):
                    rows, item = Rows(), result.item
                    rows.add(item.key, item.kind, result.vectors, result.frames)
                    lines = _short_lines(rows) if short else json_lines(rows, layout)
                    sys.stdout.buffer.writelines(lines)
                    sys.stdout.buffer.flush()
                    done += 1
                    continue
                key = result.item.key if isinstance(result, Refusal) else result.key
                errors.append((key, result.error.code, result.error.message))
                typer.echo(f"mmes: {key}: {result.error.message}", err=True)
    finally:
        await model.aclose()
    return errors, done


def _short_lines(rows: Rows) -> Iterator[bytes]:
    """`a cat  text  384 numbers [0.0927, 0.0035, 0.0182, …]`"""
    columns = zip(rows.path, rows.kind, rows.timestamp, rows.vectors, strict=True)
    for path, kind, timestamp, vector in columns:
        name = " ".join(path.split()) if kind == "text" else path
        if len(name) > MAX_NAME:  # of a path, the end says more
            name = f"{name[:MAX_NAME]}…" if kind == "text" else f"…{name[-MAX_NAME:]}"
        time = "" if timestamp is None else f" at {clock(timestamp)}"
        numbers = ", ".join(f"{number:.4f}" for number in vector[:SHORT_NUMBERS])
        yield f"{name}  {kind}{time}  {len(vector)} numbers [{numbers}, …]\n".encode()


def _write(
    listing: Listing,
    model: models.Model,
    output: Output,
    options: Options,
    *,
    fresh: bool,
) -> Tally:
    from multimodal_embedding_serving.bulk.job import run

    async def work(show: Callable[[Work], None]) -> Tally:
        def watch(tally: Tally, total: int | None) -> None:
            show(progress(tally, total))

        try:
            return await run(listing, model, output, options, fresh=fresh, watch=watch)
        finally:
            await model.aclose()

    with show_work("embedding") as show:
        try:
            return asyncio.run(work(show))
        except KeyboardInterrupt:
            typer.echo("mmes: interrupted; run the same command again to resume", err=True)
            raise
