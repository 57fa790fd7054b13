"""Rows of Parquet files as entries of a list: a file of any size, a few rows in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.bulk.items import ITEM_KINDS
from multimodal_embedding_serving.bulk.schema import pyarrow
from multimodal_embedding_serving.errors import InvalidInput

COLUMNS = (*ITEM_KINDS, "path", "id")
"""Columns that are read; at most one of the first four has a value in each row."""
BATCH_ROWS = 64
"""Read at a time: they may contain encoded images."""


@dataclass(frozen=True, slots=True)
class Range:
    """Rows [first, first + rows) of a Parquet file; `rows` None: all that follow."""

    path: Path
    first: int = 0
    rows: int | None = None


def count_rows(path: Path) -> int:
    """From the footer. Raises InvalidInput if the file is not Parquet, OSError, MissingExtra."""
    with _open(path) as file:
        return int(file.metadata.num_rows)


def table_rows(part: Range) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, columns) of each row; images and videos may be bytes, or a path.

    Raises InvalidInput for a file that is not Parquet, OSError, MissingExtra.
    """
    with _open(part.path) as file:
        names = [name for name in COLUMNS if name in file.schema_arrow.names]
        total = file.metadata.num_rows
        end = total if part.rows is None else min(total, part.first + part.rows)
        groups, number = _groups(file, part.first, end)
        for batch in file.iter_batches(BATCH_ROWS, row_groups=groups, columns=names):
            if number + len(batch) > part.first and number < end:
                for row in batch.to_pylist():
                    if part.first <= number < end:
                        yield number, {name: plain(value) for name, value in row.items()}
                    number += 1
            else:
                number += len(batch)


def _groups(file: Any, first: int, end: int) -> tuple[list[int], int]:
    """The row groups that hold these rows, and the number of the first row in them."""
    groups: list[int] = []
    first_row = start = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if start < end and start + rows > first:
            first_row = first_row if groups else start
            groups.append(group)
        start += rows
    return groups, first_row


def plain(value: Any) -> Any:
    """An image as Hugging Face's datasets store it, {"bytes": …, "path": …}, as one of the two."""
    if isinstance(value, Mapping):
        return value.get("bytes") or value.get("path")
    return value


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    arrow = pyarrow()
    try:
        with import_module("pyarrow.parquet").ParquetFile(path) as file:
            yield file
    except arrow.lib.ArrowException as error:
        why = str(error).splitlines()[0][:200]
        raise InvalidInput(f"{path.name} can't be read as Parquet: {why}") from None
