"""What a bulk job has done: a small database beside its output, and the only truth about it.

Rows lie in numbered parts; part 0 is the output itself. An item's rows are those that the ledger
names, `rows` of them from `first` on, and no others: what a killed job wrote besides is not read.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from multimodal_embedding_serving.bulk.items import Item
from multimodal_embedding_serving.errors import EmbeddingError, RemoteFailed

TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS done (
    key BLOB PRIMARY KEY, mark TEXT, file INTEGER, part INTEGER, first INTEGER, rows INTEGER,
    code TEXT, message TEXT
) WITHOUT ROWID;
"""
LIVE = "SELECT part, first, rows FROM done WHERE rows > 0 ORDER BY part, first"
RENUMBER = (
    """CREATE TEMP TABLE moved AS
    SELECT key, SUM(rows) OVER (ORDER BY part, first) - rows AS first FROM done WHERE rows > 0""",
    "UPDATE done SET part = 0, first = moved.first FROM moved WHERE moved.key = done.key",
    "DROP TABLE moved",
)
"""What remains keeps its order: its new place is the number of rows before it."""
PAGE = 1000

ErrorRecord = tuple[str, str, str]
"""(key, code, message) of an item that could not be embedded."""


@dataclass(frozen=True, slots=True)
class Done:
    """One item's end: so many rows of the part that is published with it, or an error."""

    key: str
    mark: str | None
    """None where it is to be tried again in any case."""
    is_file: bool
    rows: int = 0
    error: EmbeddingError | None = None

    @classmethod
    def of(cls, item: Item, rows: int) -> Done:
        return cls(item.key, item.mark, item.is_file, rows)

    @classmethod
    def failed(cls, item: Item, error: EmbeddingError) -> Done:
        """A failure of the service or of a remote host says nothing of the item: no mark."""
        mark = None if error.status >= RemoteFailed.status else item.mark
        return cls(item.key, mark, item.is_file, error=error)

    @property
    def record(self) -> ErrorRecord | None:
        """None where it did not fail."""
        return (self.key, self.error.code, self.error.message) if self.error else None


class Ledger:
    """May be used from several threads. Opens, or makes, the database at `path`."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA cache_size = -16384")  # KiB
        self._db.execute("PRAGMA temp_store = FILE")
        self._db.executescript(TABLES)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── facts ──

    def facts(self) -> dict[str, str]:
        with self._lock:
            return dict(self._db.execute("SELECT name, value FROM facts"))

    def note(self, facts: Mapping[str, str | None]) -> None:
        """Remember facts; None forgets one."""
        with self._transaction():
            self._note(facts)

    def _note(self, facts: Mapping[str, str | None]) -> None:
        for name, value in facts.items():
            self._db.execute("DELETE FROM facts WHERE name = ?", (name,))
            if value is not None:
                self._db.execute("INSERT INTO facts VALUES (?, ?)", (name, value))

    # ── items ──

    def state(self, item: Item) -> bool | None:
        """Whether an item is done as it is now; None: nothing is known of it."""
        with self._lock:
            found = self._db.execute(
                "SELECT mark FROM done WHERE key = ?", (_bytes(item.key),)
            ).fetchone()
        return None if found is None else found[0] == item.mark

    def publish(self, part: int, done: Iterable[Done]) -> None:
        """At once: these items are done, their rows lie in order in `part`."""
        first = 0
        with self._transaction():
            for each in done:
                error = each.error
                told = (None, None) if error is None else (error.code, error.message)
                place = (part, first, each.rows)
                values = (_bytes(each.key), each.mark, each.is_file, *place, *told)
                self._db.execute(
                    "INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values
                )
                first += each.rows
            self._note({"part": str(part)})

    def forget_failures(self, *, every: bool = False) -> None:
        """So that they are tried again: those that say nothing of their item, or all."""
        which = "code IS NOT NULL" if every else "mark IS NULL"
        with self._transaction():
            self._db.execute(f"DELETE FROM done WHERE {which}")  # noqa: S608

    def remove(self, keys: Iterable[str]) -> None:
        with self._transaction():
            self._db.executemany("DELETE FROM done WHERE key = ?", ((_bytes(key),) for key in keys))

    def files(self) -> Iterator[str]:
        """The keys of all files that are done."""
        return (_text(key) for (key,) in self._pages("key", "file"))

    def errors(self) -> Iterator[ErrorRecord]:
        """Of all that failed, by key."""
        for key, code, message in self._pages("key, code, message", "code IS NOT NULL"):
            yield _text(key), code, message

    def count_errors(self) -> int:
        with self._lock:
            query = "SELECT COUNT(*) FROM done WHERE code IS NOT NULL"
            return int(self._db.execute(query).fetchone()[0])

    def _pages(self, columns: str, which: str) -> Iterator[tuple[Any, ...]]:
        """Rows by key; meanwhile the ledger may be changed."""
        last = b""
        query = f"SELECT {columns} FROM done WHERE {which} AND key > ? ORDER BY key LIMIT {PAGE}"  # noqa: S608
        while True:
            with self._lock:
                page = self._db.execute(query, (last,)).fetchall()
            yield from page
            if len(page) < PAGE:
                return
            last = page[-1][0]

    # ── rows ──

    def count(self) -> tuple[int, bool]:
        """Live rows, and whether some lie outside the output."""
        with self._lock:
            query = "SELECT COALESCE(SUM(rows), 0), COALESCE(MAX(part), 0) FROM done WHERE rows > 0"
            rows, part = self._db.execute(query).fetchone()
        return rows, part > 0

    def live(self) -> Iterator[tuple[int, int, int]]:
        """(part, first, rows) of what is live, in order; what adjoins is one."""
        part = first = rows = 0
        for one, start, length in self._db.execute(LIVE):
            if rows and (one, start) == (part, first + rows):
                rows += length
                continue
            if rows:
                yield part, first, rows
            part, first, rows = one, start, length
        if rows:
            yield part, first, rows

    def merged(self, facts: Mapping[str, str | None]) -> None:
        """At once: all live rows lie in order in the output."""
        with self._transaction():
            for statement in RENUMBER:
                self._db.execute(statement)
            self._note(facts)

    def lose_output(self, *, every: bool = False) -> None:
        """The output, or `every` part, is gone: what lay in it is to be done again."""
        which = "rows > 0" if every else "rows > 0 AND part = 0"
        with self._transaction():
            self._db.execute(f"DELETE FROM done WHERE {which}")  # noqa: S608

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise


def _bytes(key: str) -> bytes:
    """A key may be a file name that is no UTF-8, or a text with half a character."""
    return key.encode("utf-8", "surrogatepass")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
