"""Files of rows: Parquet, `.npy` with JSONL beside it, and JSONL alone.

Rows are written in parts while a job runs. A part counts once the ledger names it; until then it
may be overwritten. At the end, the live rows of all parts are merged into one file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Protocol, Self

import numpy as np
import orjson

from multimodal_embedding_serving.bulk.schema import (
    NUMPY,
    Layout,
    Rows,
    arrow_schema,
    arrow_table,
    pyarrow,
)
from multimodal_embedding_serving.errors import BundleError, InvalidInput

MAX_GROUP_BYTES = 32 << 20
"""Of vectors, in a row group of a merged Parquet file and in memory while merging."""
COPY_BLOCK = 8 << 20


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [first, first + rows) of the file or files at `stem`."""

    stem: Path
    first: int
    rows: int


class Format(Protocol):
    """How rows are stored in files."""

    suffixes: ClassVar[tuple[str, ...]]
    """Of the files at one stem; the first is the one that users name."""

    def __init__(self, layout: Layout) -> None: ...

    def write(self, stem: Path, rows: Rows) -> None:
        """Write or overwrite a part. Raises OSError."""
        ...

    def merge(self, stem: Path, pieces: Iterable[Piece], total: int) -> None:
        """Copy the pieces, `total` rows together, in order. Raises OSError."""
        ...


def find_format(path: Path) -> type[Format]:
    """The format of a suffix. Raises InvalidInput, or MissingExtra without its library."""
    for each in (Parquet, Npy, Jsonl):
        if path.suffix.lower() == each.suffixes[0]:
            if each is Parquet:
                pyarrow()
            return each
    raise InvalidInput(f"{path.name}: the output file must end with .parquet, .npy or .jsonl")


def files_at(stem: Path, suffixes: Iterable[str]) -> list[Path]:
    return [stem.with_name(stem.name + suffix) for suffix in suffixes]


def flush(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Parquet:
    """One Parquet file; its schema is `arrow_schema`."""

    suffixes: ClassVar[tuple[str, ...]] = (".parquet",)

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._parquet = import_module("pyarrow.parquet")
        width = layout.dimension * np.dtype(NUMPY[layout.dtype]).itemsize
        self._group = max(1, MAX_GROUP_BYTES // width)

    def write(self, stem: Path, rows: Rows) -> None:
        (path,) = files_at(stem, self.suffixes)
        with self.writer(path) as writer:
            writer.write_table(arrow_table(rows, self._layout))
        flush(path)

    def merge(self, stem: Path, pieces: Iterable[Piece], total: int) -> None:
        (path,) = files_at(stem, self.suffixes)
        arrow, tables, count = pyarrow(), [], 0
        with self.writer(path) as writer, Groups(self._parquet) as groups:
            for piece in pieces:
                for table in groups.read(piece):
                    tables.append(table)
                    count += len(table)
                    if count >= self._group:
                        writer.write_table(arrow.concat_tables(tables), self._group)
                        tables, count = [], 0
            if tables:
                writer.write_table(arrow.concat_tables(tables), self._group)
        flush(path)

    def writer(self, path: Path) -> Any:
        """A pyarrow.parquet.ParquetWriter. Vectors get neither compression nor a dictionary: they
        hardly compress and have no equal values."""
        columns = ["path", "kind", "model", "fingerprint"]
        return self._parquet.ParquetWriter(
            path,
            arrow_schema(self._layout),
            use_dictionary=columns,
            compression={
                **dict.fromkeys([*columns, "frame", "timestamp"], "zstd"),
                "vector": "none",
            },
            write_statistics=columns,
        )


class Groups:
    """Reads pieces of Parquet files, in order; each row group is read once."""

    def __init__(self, parquet: Any) -> None:
        self._parquet = parquet
        self._path: Path | None = None
        self._file: Any = None
        self._number = -1
        self._table: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def read(self, piece: Piece) -> Iterator[Any]:
        """The piece, as several tables."""
        (path,) = files_at(piece.stem, Parquet.suffixes)
        if path != self._path:
            self.__exit__()
            self._path, self._file, self._number = path, self._parquet.ParquetFile(path), -1
        start, end = 0, piece.first + piece.rows
        for number in range(self._file.num_row_groups):
            size = self._file.metadata.row_group(number).num_rows
            first, last = max(piece.first - start, 0), min(end - start, size)
            if first < last:
                if number != self._number:
                    self._number, self._table = number, self._file.read_row_group(number)
                yield self._table.slice(first, last - first)
            start += size
        if end > start:
            raise BundleError(f"{path.name} is truncated: it has fewer rows than were written")


class Jsonl:
    """One JSON object a line, the vector as a list."""

    suffixes: ClassVar[tuple[str, ...]] = (".jsonl",)

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def write(self, stem: Path, rows: Rows) -> None:
        (path,) = files_at(stem, self.suffixes)
        with Durable(path) as file:
            file.writelines(json_lines(rows, self._layout))

    def merge(self, stem: Path, pieces: Iterable[Piece], total: int) -> None:
        (path,) = files_at(stem, self.suffixes)
        with Durable(path) as file, Lines(self.suffixes[0]) as lines:
            for piece in pieces:
                file.writelines(lines.read(piece))


class Npy:
    """A matrix in NumPy's format, and JSONL that describes each of its rows."""

    suffixes: ClassVar[tuple[str, ...]] = (".npy", ".rows.jsonl")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._type = np.dtype(NUMPY[layout.dtype])

    def write(self, stem: Path, rows: Rows) -> None:
        matrix, lines = files_at(stem, self.suffixes)
        with Durable(matrix) as file:
            np.save(file, rows.matrix(self._layout))
        with Durable(lines) as file:
            file.writelines(_line(facts) for facts in rows.facts(self._layout))

    def merge(self, stem: Path, pieces: Iterable[Piece], total: int) -> None:
        matrix, texts = files_at(stem, self.suffixes)
        width = self._layout.dimension
        header = {"descr": self._type.str, "fortran_order": False, "shape": (total, width)}
        with Durable(matrix) as file, Durable(texts) as facts, Lines(self.suffixes[1]) as lines:
            np.lib.format.write_array_header_1_0(file, header)
            for piece in pieces:
                source, _ = files_at(piece.stem, self.suffixes)
                row = width * self._type.itemsize
                _copy(source, piece.first * row, piece.rows * row, file)
                facts.writelines(lines.read(piece))


class Durable:
    """A new file, flushed to the disk when it is closed without an error."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> IO[bytes]:
        self._file = self._path.open("wb")
        return self._file

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._file as file:
            if error is None:
                file.flush()
                os.fsync(file.fileno())


class Lines:
    """Reads pieces of files of lines, in order."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._path: Path | None = None
        self._place = 0
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def read(self, piece: Piece) -> Iterator[bytes]:
        (path,) = files_at(piece.stem, [self._suffix])
        if path != self._path:
            self._open.close()
            self._path, self._place = path, 0
            self._file = self._open.enter_context(path.open("rb"))
        for _ in range(piece.first - self._place):
            next(self._file)
        for _ in range(piece.rows):
            yield next(self._file)
        self._place = piece.first + piece.rows


def json_lines(rows: Rows, layout: Layout) -> Iterator[bytes]:
    """Each row as a line of JSON."""
    for facts, vector in zip(rows.facts(layout), rows.matrix(layout), strict=True):
        yield _line({**facts, "vector": vector})


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _copy(source: Path, start: int, length: int, target: IO[bytes]) -> None:
    """Bytes of a matrix, counted from the end of its header."""
    with source.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        file.seek(start, os.SEEK_CUR)
        while length:
            block = file.read(min(length, COPY_BLOCK))
            if not block:
                raise BundleError(
                    f"{source.name} is truncated: it has fewer rows than were written"
                )
            target.write(block)
            length -= len(block)
