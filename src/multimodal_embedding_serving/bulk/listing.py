"""The words of a command line as a stream of items: folders, globs and lists are opened lazily.

Nothing is kept but the folders on the way down, so a listing may have any length. Names come in
order, except that a folder of more than CHUNK entries is ordered by chunks.
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
    KINDS,
    LIST_SUFFIXES,
    TABLE_SUFFIX,
    Failure,
    Item,
    Kind,
    Mark,
    argument_item,
    bytes_item,
    file_item,
    kind_of_file,
    mark_by_date,
    text_item,
    unreadable,
    url_item,
)
from multimodal_embedding_serving.bulk.tables import Range, table_rows
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput
from multimodal_embedding_serving.inputs.media_access import is_url

CHUNK = 10_000
"""Entries of a folder in memory at a time: about 2 MB."""

Listed = Item | Failure


@dataclass(frozen=True, slots=True)
class Listing:
    """What to list, and how. `stdin` is read where an argument is `-`."""

    arguments: tuple[str, ...]
    texts: tuple[str, ...] = ()
    """Texts whatever they look like."""
    kinds: Collection[Kind] = KINDS
    """What is taken from folders and globs."""
    mark: Mark = mark_by_date
    stdin: TextIO | None = None

    def __iter__(self) -> Iterator[Listed]:
        for argument in self.arguments:
            yield from self._argument(argument)
        for text in self.texts:
            yield text_item(text, text)

    def _argument(self, argument: str) -> Iterator[Listed]:
        if argument == "-" and self.stdin is not None:
            yield from self._lines(self.stdin)
        elif os.path.isdir(argument):  # noqa: PTH112 - any word may be asked
            yield from self._folder(argument)
        elif Path(argument).suffix.lower() in LIST_SUFFIXES and os.path.lexists(argument):
            yield from self._list(Path(argument))
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            yield from self._glob(argument)
        else:
            yield from self._word(argument)

    def _word(self, argument: str) -> Iterator[Listed]:
        yield from _tried(argument, lambda: argument_item(argument, self.mark))

    def _glob(self, pattern: str) -> Iterator[Listed]:
        """What matches; a pattern that matches nothing is a word as any other."""
        names = glob.iglob(pattern, recursive=True)  # noqa: PTH207 - absolute ones, too
        matched = False
        while chunk := sorted(islice(names, CHUNK)):
            matched = True
            for name in chunk:
                yield from self._found(name)
        if not matched:
            yield from self._word(pattern)

    def _found(self, name: str) -> Iterator[Listed]:
        """A file that was not named by itself: one of another kind is passed over."""
        kind = kind_of_file(name)
        if kind in self.kinds and os.path.isfile(name):  # noqa: PTH113
            path = Path(name)
            yield from _tried(name, lambda: file_item(path, self.mark, kind=kind))

    def _folder(self, folder: str) -> Iterator[Listed]:
        """The files below a folder. Hidden ones, and folders behind links, are passed over."""
        try:
            with os.scandir(folder) as entries:
                while chunk := sorted(islice(entries, CHUNK), key=lambda entry: entry.name):
                    for entry in chunk:
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            yield from self._folder(entry.path)
                        else:
                            yield from self._found(entry.path)
        except OSError as error:
            yield Failure(folder, unreadable(error))

    # ── lists ──

    def table(self, rows: Range) -> Iterator[Listed]:
        """The items of some rows of a Parquet file. Raises MissingExtra."""
        path = rows.path
        try:
            for number, entry in table_rows(rows):
                key = f"{path}:{number}"
                yield from _tried(key, lambda: self._item(entry, key, path.parent))  # noqa: B023
        except EmbeddingError as error:
            yield Failure(str(path), error)
        except OSError as error:
            yield Failure(str(path), unreadable(error))

    def _list(self, path: Path) -> Iterator[Listed]:
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

    def _lines(self, stdin: Iterable[str]) -> Iterator[Listed]:
        """Each line an object as in a JSONL file, or what it would be as an argument."""
        for number, line in enumerate(stdin, 1):
            if line.lstrip().startswith("{"):
                yield from self._entry(line, f"-:{number}", Path())
            elif word := line.rstrip("\r\n"):
                yield from self._word(word)

    def _table(self, file: TextIO, path: Path) -> Iterator[Listed]:
        rows = csv.DictReader(file)
        try:
            for row in rows:
                given = {name: value for name, value in row.items() if name and value}
                key = f"{path}:{rows.line_num}"
                yield from _tried(key, lambda: self._item(given, key, path.parent))  # noqa: B023
        except csv.Error as error:
            yield Failure(f"{path}:{rows.line_num}", InvalidInput(f"it is no CSV: {error}"))

    def _entry(self, line: str, key: str, folder: Path) -> Iterator[Listed]:
        def read() -> Item:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                raise InvalidInput("the line is no JSON") from None
            if isinstance(entry, str):
                return text_item(entry, key)
            if not isinstance(entry, dict):
                raise InvalidInput("the line is neither a JSON object nor a string")
            return self._item(entry, key, folder)

        yield from _tried(key, read)

    def _item(self, entry: Mapping[str, Any], key: str, folder: Path) -> Item:
        """{"text" | "image" | "video" | "path": …, "id": …}; paths are relative to the list."""
        named = [(name, entry[name]) for name in (*KINDS, "path") if entry.get(name) is not None]
        name, value = named[0] if len(named) == 1 else ("", None)
        given = entry.get("id")
        own = None if given is None else str(given)
        if isinstance(value, bytes) and name in ("image", "video"):
            return bytes_item(value, name, own or key)  # type: ignore[arg-type]
        if not isinstance(value, str):
            raise InvalidInput('one of "text", "image", "video" and "path" must be a string')
        if name == "text":
            return text_item(value, own or key)
        kind: Kind | None = None if name == "path" else name  # type: ignore[assignment]
        if is_url(value):
            item = url_item(value, kind)
        else:
            item = file_item(folder / value, self.mark, kind=kind)
        return item if own is None else Item(own, item.kind, item.source, item.mark)


def _tried(key: str, make: Callable[[], Item]) -> Iterator[Listed]:
    """The item that is made, or why it can't be."""
    try:
        yield make()
    except EmbeddingError as error:
        yield Failure(key, error)
    except OSError as error:
        yield Failure(key, unreadable(error))
    except ValueError:  # a NUL
        yield Failure(key, InvalidInput("that is no name of a file"))
