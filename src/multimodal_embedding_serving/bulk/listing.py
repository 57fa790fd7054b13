"""Command-line arguments as a stream of items: folders, globs and lists are opened lazily.

Only the folders on the way down are in memory, so a listing may have any length. Names are sorted;
a folder of more than MAX_SORTED entries is sorted in chunks of that size.
"""

from __future__ import annotations

import csv
import glob
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from multimodal_embedding_serving.bulk.items import (
    ITEM_KINDS,
    LIST_SUFFIXES,
    TABLE_SUFFIX,
    TEXT_ADVICE,
    Failure,
    Item,
    Kind,
    Mark,
    argument_item,
    bytes_item,
    file_item,
    kind_of_file,
    looks_like_files,
    mark_by_date,
    missing,
    text_item,
    unreadable,
    url_item,
)
from multimodal_embedding_serving.bulk.tables import Range, table_rows
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput, NotFound
from multimodal_embedding_serving.inputs.media_access import is_url

MAX_SORTED = 10_000
"""Entries of a folder that are sorted at a time: about 2 MB."""

LINE_ADVICE = 'to embed it as text, write {"text": …} on the line'

ListingEntry = Item | Failure


@dataclass(frozen=True, slots=True)
class Listing:
    """What to list, and how. `stdin` is read where an argument is `-`."""

    arguments: tuple[str, ...]
    texts: tuple[str, ...] = ()
    """Literal texts, even if they look like files."""
    kinds: Collection[Kind] = ITEM_KINDS
    """Taken from folders and globs."""
    mark: Mark = mark_by_date
    stdin: TextIO | None = None
    bare_texts: bool = True
    """Whether an argument, or a line of standard input, that is not a file may be a text."""

    def __iter__(self) -> Iterator[ListingEntry]:
        for argument in self.arguments:
            yield from self._argument(argument)
        for text in self.texts:
            yield text_item(text, text)

    def check(self) -> None:
        """Raise NotFound for the first argument that must be a file, a folder or a match and is
        not."""
        for argument in self.arguments:
            if not (argument == "-" and self.stdin is not None) and self._is_missing(argument):
                raise NotFound(f"{argument}: {missing(argument)}")

    def _is_missing(self, argument: str) -> bool:
        """Globs are evaluated up to their first match."""
        if is_url(argument) or os.path.lexists(argument):
            return False
        if glob.has_magic(argument):
            return next(glob.iglob(argument, recursive=True), None) is None  # noqa: PTH207
        return not self.bare_texts or looks_like_files(argument)

    def _argument(self, argument: str) -> Iterator[ListingEntry]:
        if argument == "-" and self.stdin is not None:
            yield from self._lines(self.stdin)
        elif os.path.isdir(argument):  # noqa: PTH112 - any text may be an argument
            yield from self._folder(argument)
        elif Path(argument).suffix.lower() in LIST_SUFFIXES and os.path.lexists(argument):
            yield from self._list(Path(argument))
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            yield from self._glob(argument)
        else:
            yield from self._plain(argument)

    def _plain(self, argument: str, advice: str = TEXT_ADVICE) -> Iterator[ListingEntry]:
        texts = self.bare_texts
        yield from item_or_failure(
            argument, lambda: argument_item(argument, self.mark, texts=texts, advice=advice)
        )

    def _glob(self, pattern: str) -> Iterator[ListingEntry]:
        """The files that match. Raises nothing: a pattern without a match is a failure."""
        names = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - absolute ones, too
        matched = False
        while chunk := sorted(islice(names, MAX_SORTED)):
            matched = True
            for name in chunk:
                yield from self._file(name)
        if not matched:
            yield from self._plain(pattern)

    def _file(self, name: str) -> Iterator[ListingEntry]:
        """A file of a folder or glob; one of another kind is skipped."""
        kind = kind_of_file(name)
        if kind in self.kinds and os.path.isfile(name):  # noqa: PTH113
            path = Path(name)
            yield from item_or_failure(name, lambda: file_item(path, self.mark, kind=kind))

    def _folder(self, folder: str) -> Iterator[ListingEntry]:
        """The files below a folder. Hidden ones, and links to folders, are skipped."""
        try:
            with os.scandir(folder) as entries:
                while chunk := sorted(islice(entries, MAX_SORTED), key=lambda entry: entry.name):
                    for entry in chunk:
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            yield from self._folder(entry.path)
                        else:
                            yield from self._file(entry.path)
        except OSError as error:
            yield Failure(folder, unreadable(error))

    # ── lists ──

    def table(self, rows: Range) -> Iterator[ListingEntry]:
        """The items in a range of rows of a Parquet file. Raises MissingExtra."""
        path = rows.path
        try:
            for number, entry in table_rows(rows):
                key = f"{path}:{number}"
                yield from item_or_failure(key, lambda: self._item(entry, key, path.parent))  # noqa: B023
        except EmbeddingError as error:
            yield Failure(str(path), error)
        except OSError as error:
            yield Failure(str(path), unreadable(error))

    def _list(self, path: Path) -> Iterator[ListingEntry]:
        if path.suffix.lower() == TABLE_SUFFIX:
            yield from self.table(Range(path))
            return
        try:
            with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                if path.suffix.lower() == ".csv":
                    yield from self._table(file, path)
                else:
                    for number, line in enumerate(file, 1):
                        if line.strip():
                            yield from self._entry(line, f"{path}:{number}", path.parent)
        except OSError as error:
            yield Failure(str(path), unreadable(error))

    def _lines(self, stdin: Iterable[str]) -> Iterator[ListingEntry]:
        """Each line is an object as in a JSONL file, or an argument."""
        for number, line in enumerate(stdin, 1):
            if line.lstrip().startswith("{"):
                yield from self._entry(line, f"-:{number}", Path())
            elif argument := line.rstrip("\r\n"):
                yield from self._plain(argument, LINE_ADVICE)

    def _table(self, file: TextIO, path: Path) -> Iterator[ListingEntry]:
        rows = csv.DictReader(file)
        try:
            for row in rows:
                entry = {name: value for name, value in row.items() if name and value}
                key = f"{path}:{rows.line_num}"
                yield from item_or_failure(key, lambda: self._item(entry, key, path.parent))  # noqa: B023
        except csv.Error as error:
            yield Failure(f"{path}:{rows.line_num}", InvalidInput(f"not valid CSV: {error}"))

    def _entry(self, line: str, key: str, folder: Path) -> Iterator[ListingEntry]:
        def read() -> Item:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                raise InvalidInput("the line is not valid JSON") from None
            if isinstance(entry, str):
                return text_item(entry, key)
            if not isinstance(entry, dict):
                raise InvalidInput("the line is neither a JSON object nor a string")
            return self._item(entry, key, folder)

        yield from item_or_failure(key, read)

    def _item(self, entry: Mapping[str, Any], key: str, folder: Path) -> Item:
        return entry_item(entry, key, folder, self.mark)


def entry_item(entry: Mapping[str, Any], key: str, folder: Path, mark: Mark = mark_by_date) -> Item:
    """{"text" | "image" | "video" | "path": …, "id": …}; paths are relative to `folder`.

    Raises InvalidInput, NotFound, Forbidden.
    """
    fields = [(name, entry[name]) for name in (*ITEM_KINDS, "path") if entry.get(name) is not None]
    name, value = fields[0] if len(fields) == 1 else ("", None)
    id_ = None if entry.get("id") is None else str(entry["id"])
    if isinstance(value, bytes) and name in ("image", "video"):
        return bytes_item(value, name, id_ or key)  # type: ignore[arg-type]
    if not isinstance(value, str):
        raise InvalidInput(
            'exactly one of "text", "image", "video" and "path" is required, as a string'
        )
    if name == "text":
        return text_item(value, id_ or key)
    kind: Kind | None = None if name == "path" else name  # type: ignore[assignment]
    item = url_item(value, kind) if is_url(value) else _listed_file(folder / value, mark, kind)
    return item if id_ is None else Item(id_, item.kind, item.source, item.mark)


def _listed_file(path: Path, mark: Mark, kind: Kind | None) -> Item:
    """The item of a file that a list names. Its failure names the file: the key is the line."""
    try:
        return file_item(path, mark, kind=kind)
    except OSError as error:
        raise unreadable(error, path) from None


def item_or_failure(key: str, make: Callable[[], Item]) -> Iterator[ListingEntry]:
    """The item, or why it can't be made."""
    try:
        yield make()
    except EmbeddingError as error:
        yield Failure(key, error)
    except OSError as error:
        yield Failure(key, unreadable(error))
    except ValueError:  # a NUL
        yield Failure(key, InvalidInput("not a valid file name"))
