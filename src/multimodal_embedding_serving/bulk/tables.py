"""Rows of Parquet files as entries of a list: a file of any size, a few rows in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.bulk.items import KINDS
from multimodal_embedding_serving.bulk.schema import pyarrow
from multimodal_embedding_serving.errors import InvalidInput

COLUMNS = (*KINDS, "path", "id")
"""What is read: at most one of the first four says what an item is."""
ROWS = 64
"""Read at a time: encoded pictures may lie in them."""


@dataclass(frozen=True, slots=True)
class Range:
    """Rows [first, first + rows) of a Parquet file; `rows` None: all that follow."""

    path: Path
    first: int = 0
    rows: int | None = None


def count_rows(path: Path) -> int:
    """From the file's footer. Raises InvalidInput for what is no Parquet, OSError, MissingExtra."""
    with _opened(path) as file:
        return int(file.metadata.num_rows)


def table_rows(wanted: Range) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, columns) of each row; pictures and videos may be bytes, or a path.

    Raises InvalidInput for what is no Parquet, OSError, MissingExtra.
    """
    with _opened(wanted.path) as file:
        names = [name for name in COLUMNS if name in file.schema_arrow.names]
        total = file.metadata.num_rows
        end = total if wanted.rows is None else min(total, wanted.first + wanted.rows)
        groups, number = _groups(file, wanted.first, end)
        for batch in file.iter_batches(ROWS, row_groups=groups, columns=names):
            if number + len(batch) > wanted.first and number < end:
                for row in batch.to_pylist():
                    if wanted.first <= number < end:
                        yield number, {name: _plain(value) for name, value in row.items()}
                    number += 1
            else:
                number += len(batch)


def _groups(file: Any, first: int, end: int) -> tuple[list[int], int]:
    """The row groups that hold these rows, and the number of the first row in them."""
    groups: list[int] = []
    begun = start = 0
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if start < end and start + rows > first:
            begun = begun if groups else start
            groups.append(group)
        start += rows
    return groups, begun


def _plain(value: Any) -> Any:
    """A picture as Hugging Face's datasets keep it, {"bytes": …, "path": …}, as one of the two."""
    if isinstance(value, Mapping):
        return value.get("bytes") or value.get("path")
    return value


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    arrow = pyarrow()
    try:
        with import_module("pyarrow.parquet").ParquetFile(path) as file:
            yield file
    except arrow.lib.ArrowException as error:
        why = str(error).splitlines()[0][:200]
        raise InvalidInput(f"{path.name} can't be read as Parquet: {why}") from None
