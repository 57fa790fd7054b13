"""A folder or a table of inputs -> a pyarrow.Table of vectors, and one of errors, in memory.

For more than memory holds, and to resume, there is `mmes embed`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from multimodal_embedding_serving.bulk.items import ITEM_KINDS, Kind, printable
from multimodal_embedding_serving.bulk.listing import (
    Listing,
    ListingEntry,
    entry_item,
    item_or_failure,
)
from multimodal_embedding_serving.bulk.models import CallerModel, LocalModel, Model
from multimodal_embedding_serving.bulk.schema import Layout, Rows, arrow_table, pyarrow
from multimodal_embedding_serving.bulk.stream import Answer, Refusal, embed
from multimodal_embedding_serving.bulk.tables import BATCH_ROWS, COLUMNS, Range, plain, table_rows
from multimodal_embedding_serving.client import Client
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import InvalidInput, NotFound
from multimodal_embedding_serving.sdk.arguments import kind_of, read_segment, suggest
from multimodal_embedding_serving.sdk.embedder import SegmentConfig


class EmbeddedTables(NamedTuple):
    """What `embed_folder` and `embed_table` return."""

    vectors: Any
    """pyarrow.Table, one row per vector: path, kind, frame, timestamp, vector, model, fingerprint
    (see docs/cli.md); of `embed_table`, first the number of the input's row."""
    errors: Any
    """pyarrow.Table, one row per input without a vector: path, code, message; of `embed_table`,
    first the number of the input's row."""


@dataclass(slots=True)
class Collected:
    """The results so far. `numbers` and `error_numbers` are the places of their inputs."""

    rows: Rows = field(default_factory=Rows)
    numbers: list[int] = field(default_factory=list)
    errors: list[tuple[str, str, str]] = field(default_factory=list)
    error_numbers: list[int] = field(default_factory=list)


def embed_folder(
    embedder: Engine | Client,
    folder: str | Path,
    *,
    kinds: Collection[Kind] | None = None,
    segment: SegmentConfig | None = None,
) -> EmbeddedTables:
    """Embed the files below a folder, with what could not be embedded apart. Blocks.

    `kinds` are some of text, image and video; all that the model embeds if left out. `segment`
    says which frames of a video. Hidden files and other kinds of files are skipped.
    Raises MissingExtra without pyarrow, NotFound, InvalidInput, TypeError, and what ends the whole
    job, such as NotReady.
    """
    pyarrow("embed_folder")
    _check_embedder(embedder)
    path = _folder(folder)
    chosen = None if kinds is None else _kinds(kinds)
    model = _model(embedder, segment)
    listing = Listing((str(path),), kinds=chosen or model.identity.kinds)
    return _tables(_run(embedder, _collect(listing, model)), model)


def embed_table(
    embedder: Engine | Client,
    table: Any,
    *,
    text: str | None = None,
    image: str | None = None,
    video: str | None = None,
    id: str | None = None,  # noqa: A002 - the column's name everywhere else
    segment: SegmentConfig | None = None,
) -> EmbeddedTables:
    """Embed the rows of a table, with what could not be embedded apart. Blocks.

    `table` is a pyarrow.Table, a data frame of pandas or polars, a dict of columns, or the path of
    a Parquet file. `text`, `image`, `video` and `id` name its columns; if none of the first three
    is given, the columns text, image, video and path are read. A row must have exactly one value
    to embed: a text, or the path, URL or bytes of an image or video; paths are relative to the
    Parquet file, or else to the current folder. `id` is what the result has as `path`.
    Raises as `embed_folder` does.
    """
    arrow = pyarrow("embed_table")
    _check_embedder(embedder)
    names = {"text": text, "image": image, "video": video, "id": id}
    given = {name: column for name, column in names.items() if column is not None}
    if isinstance(table, str | Path):
        if given:
            raise InvalidInput(
                f"{next(iter(given))}= can't be used with the path of a file; pass "
                "pyarrow.parquet.read_table(path)"
            )
        file = _file(table)
        folder, source = file.parent, table_rows(Range(file))
    else:
        read = _arrow(arrow, table)
        folder, source = Path(), _rows(read, _columns(read.column_names, given))
    model = _model(embedder, segment)
    collected = _run(embedder, _collect(_entries(source, folder), model))
    return _tables(collected, model, numbered=True)


# ── arguments ──


def _check_embedder(embedder: object) -> None:
    if not isinstance(embedder, Engine | Client):
        raise TypeError(
            f"the first argument must be an Engine or a Client, not {type(embedder).__name__}"
        )


def _folder(folder: str | Path) -> Path:
    if not isinstance(folder, str | Path):
        raise InvalidInput(f"folder must be a path, not {kind_of(folder)}", param="folder")
    path = Path(folder).expanduser()
    if not path.exists():
        raise NotFound(f"folder: {path}: no such folder", param="folder")
    if not path.is_dir():
        raise InvalidInput(f"folder: {path}: is a file; use embed(…)", param="folder")
    return path


def _file(name: str | Path) -> Path:
    path = Path(name).expanduser()
    if not path.is_file():
        raise NotFound(f"table: {path}: no such file", param="table")
    return path


def _kinds(kinds: Collection[Kind]) -> tuple[Kind, ...]:
    values: tuple[Any, ...] = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in values:
        if kind not in ITEM_KINDS:
            raise InvalidInput(f"kinds has no {kind!r}; {suggest(str(kind), ITEM_KINDS)}")
    if not values:
        raise InvalidInput(f"kinds is empty; known: {', '.join(ITEM_KINDS)}")
    return values


def _arrow(arrow: Any, table: Any) -> Any:
    """The pyarrow.Table of whatever is a table. Raises InvalidInput."""
    if isinstance(table, arrow.RecordBatch):
        return arrow.Table.from_batches([table])
    try:
        if isinstance(table, arrow.Table | Mapping) or hasattr(table, "__arrow_c_stream__"):
            return arrow.table(table)
        if hasattr(table, "iloc"):  # pandas before 2.2
            return arrow.Table.from_pandas(table, preserve_index=False)
    except (arrow.lib.ArrowException, TypeError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InvalidInput(f"table can't be read as Arrow: {reason}", param="table") from None
    raise InvalidInput(
        "table must be a pyarrow.Table, a data frame, a dict of columns or the path of a Parquet "
        f"file, not {kind_of(table)}",
        param="table",
    )


def _columns(names: list[str], given: Mapping[str, str]) -> dict[str, str]:
    """Field of an entry -> column. Raises InvalidInput."""
    for argument, column in given.items():
        if column not in names:
            raise InvalidInput(
                f"{argument}={column!r}: the table has no such column; {suggest(column, names)}"
            )
    if given.keys() - {"id"}:
        return dict(given)
    columns = {**{name: name for name in COLUMNS if name in names}, **given}
    if not columns.keys() - {"id"}:
        raise InvalidInput(
            "the table has no column text, image, video or path; name one of its columns "
            f"({', '.join(names)}), such as embed_table(…, text={names[0] if names else 'title'!r})"
        )
    return columns


# ── work ──


def _rows(table: Any, columns: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    selected = table.select(list(dict.fromkeys(columns.values())))
    for batch in selected.to_batches(max_chunksize=BATCH_ROWS):
        for row in batch.to_pylist():
            yield number, {name: plain(row[column]) for name, column in columns.items()}
            number += 1


def _entries(rows: Iterable[tuple[int, dict[str, Any]]], folder: Path) -> Iterator[ListingEntry]:
    for number, entry in rows:
        yield from item_or_failure(
            str(number if entry.get("id") is None else entry["id"]),
            lambda: entry_item(entry, str(number), folder),  # noqa: B023
        )


def _model(embedder: Engine | Client, segment: SegmentConfig | None) -> Model:
    config = read_segment(segment)
    if isinstance(embedder, Engine):
        return LocalModel(embedder, embedder.settings, config)
    return CallerModel(embedder, config)


def _run(embedder: Engine | Client, work: Coroutine[Any, Any, Collected]) -> Collected:
    """Wait for the work, also where an event loop is running, as in a notebook."""
    if isinstance(embedder, Engine):
        return embedder.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def _collect(entries: Iterable[ListingEntry], model: Model) -> Collected:
    collected = Collected()
    number = 0
    async with aclosing(embed(entries, model)) as results:
        async for result in results:  # one for each entry, in their order
            if isinstance(result, Answer):
                item = result.item
                count = collected.rows.add(item.key, item.kind, result.vectors, result.frames)
                collected.numbers += [number] * count
            else:
                key = result.item.key if isinstance(result, Refusal) else result.key
                error = result.error
                collected.errors.append((printable(key), error.code, error.message))
                collected.error_numbers.append(number)
            number += 1
    return collected


def _tables(collected: Collected, model: Model, *, numbered: bool = False) -> EmbeddedTables:
    arrow = pyarrow()
    vectors = arrow_table(collected.rows, Layout.of(model.identity))
    columns = list(zip(*collected.errors, strict=True)) or [(), (), ()]
    names = ("path", "code", "message")
    errors = arrow.table(
        {name: arrow.array(each, arrow.string()) for name, each in zip(names, columns, strict=True)}
    )
    if numbered:
        of_vectors = arrow.array(collected.numbers, arrow.int64())
        of_errors = arrow.array(collected.error_numbers, arrow.int64())
        vectors, errors = (
            vectors.add_column(0, "row", of_vectors),
            errors.add_column(0, "row", of_errors),
        )
    return EmbeddedTables(vectors, errors)
