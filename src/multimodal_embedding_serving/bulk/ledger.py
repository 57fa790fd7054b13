"""What a bulk job has done: a small database beside its output, and the only authority on it.

Rows are in numbered parts; part 0 is the output itself. An item's rows are the `rows` ones from
`first` on that the ledger names. What a killed job wrote beyond them is not read.
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
from multimodal_embedding_serving.bundles.checksums import checksum, open_json, seal_json
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput, RemoteFailed

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
"""Live rows keep their order: the new index is the number of live rows before."""
PAGE_ROWS = 1000
RECORD = "ledger.json"
"""Beside the ledger while it is closed: its checksum, for SQLite finds only some damage itself."""
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

ErrorRecord = tuple[str, str, str]
"""(key, code, message) of an item that could not be embedded."""


@dataclass(frozen=True, slots=True)
class Done:
    """How an item ended: with `rows` rows in the part published with it, or with an error."""

    key: str
    mark: str | None
    """None: the next run retries the item."""
    is_file: bool
    rows: int = 0
    error: EmbeddingError | None = None

    @classmethod
    def of(cls, item: Item, rows: int) -> Done:
        return cls(item.key, item.mark, item.is_file, rows)

    @classmethod
    def failed(cls, item: Item, error: EmbeddingError) -> Done:
        """Without a mark, to be retried, if the service or a remote host failed."""
        mark = None if error.status >= RemoteFailed.status else item.mark
        return cls(item.key, mark, item.is_file, error=error)

    @property
    def record(self) -> ErrorRecord | None:
        """None if it did not fail."""
        return (self.key, self.error.code, self.error.message) if self.error else None


class OutputDamaged(InvalidInput):
    """The files of a job are not as it left them."""


@contextmanager
def reporting_damage(name: str) -> Iterator[None]:
    """Raise OutputDamaged where SQLite finds that a ledger is damaged."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) not in DAMAGED:
            raise
        raise damage(name) from None


def damage(name: str) -> OutputDamaged:
    return OutputDamaged(f"the ledger of {name} is damaged; use --fresh to start over")


class Ledger:
    """Thread-safe. Opens the database at `path`, or creates it.

    `name` is that of the output. Raises OutputDamaged where the database is not as it was closed;
    one that a killed job left has no checksum, and SQLite's own check decides.
    """

    def __init__(self, path: Path, name: str = "the job") -> None:
        self._path, self._record = path, path.with_name(RECORD)
        recorded = _read_record(self._record)
        if recorded is not None and not (path.is_file() and checksum(path) == recorded):
            raise damage(name)
        self._record.unlink(missing_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with reporting_damage(name):
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute("PRAGMA cache_size = -16384")  # KiB
                self._db.execute("PRAGMA temp_store = FILE")
                if recorded is None:
                    (verdict,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
                    if verdict != "ok":
                        raise damage(name)
                self._db.executescript(TABLES)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the database and write its checksum. Raises OSError."""
        self._db.close()
        partial = self._record.with_suffix(".new")
        partial.write_text(seal_json({"xxh3": checksum(self._path)}), "utf-8")
        partial.replace(self._record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, OutputDamaged):
            self._db.close()  # without a checksum: what is damaged must not look whole
        else:
            self.close()

    # ── facts ──

    def facts(self) -> dict[str, str]:
        with self._lock:
            return dict(self._db.execute("SELECT name, value FROM facts"))

    def note(self, facts: Mapping[str, str | None]) -> None:
        """Record facts; None deletes one."""
        with self._transaction():
            self._note(facts)

    def _note(self, facts: Mapping[str, str | None]) -> None:
        for name, value in facts.items():
            self._db.execute("DELETE FROM facts WHERE name = ?", (name,))
            if value is not None:
                self._db.execute("INSERT INTO facts VALUES (?, ?)", (name, value))

    # ── items ──

    def state(self, item: Item) -> bool | None:
        """Whether an item is done with its present mark; None: it is not in the ledger."""
        with self._lock:
            row = self._db.execute(
                "SELECT mark FROM done WHERE key = ?", (_bytes(item.key),)
            ).fetchone()
        return None if row is None else row[0] == item.mark

    def publish(self, part: int, done: Iterable[Done]) -> None:
        """In one transaction: these items are done, their rows are in order in `part`."""
        first = 0
        with self._transaction():
            for each in done:
                error = each.error
                failure = (None, None) if error is None else (error.code, error.message)
                place = (part, first, each.rows)
                values = (_bytes(each.key), each.mark, each.is_file, *place, *failure)
                self._db.execute(
                    "INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values
                )
                first += each.rows
            self._note({"part": str(part)})

    def forget_failures(self, *, every: bool = False) -> None:
        """Have the next run retry them: those without a mark, or `every` one."""
        which = "code IS NOT NULL" if every else "mark IS NULL"
        with self._transaction():
            self._db.execute(f"DELETE FROM done WHERE {which}")  # noqa: S608

    def remove(self, keys: Iterable[str]) -> None:
        with self._transaction():
            self._db.executemany("DELETE FROM done WHERE key = ?", ((_bytes(key),) for key in keys))

    def files(self) -> Iterator[str]:
        """The keys of all files in the ledger."""
        return (_text(key) for (key,) in self._pages("key", "file"))

    def errors(self) -> Iterator[ErrorRecord]:
        """Of all failed items, by key."""
        for key, code, message in self._pages("key, code, message", "code IS NOT NULL"):
            yield _text(key), code, message

    def count_errors(self) -> int:
        with self._lock:
            query = "SELECT COUNT(*) FROM done WHERE code IS NOT NULL"
            return int(self._db.execute(query).fetchone()[0])

    def _pages(self, columns: str, which: str) -> Iterator[tuple[Any, ...]]:
        """Rows by key, a page at a time: the ledger may change meanwhile."""
        last = b""
        query = (
            f"SELECT {columns} FROM done WHERE {which} AND key > ? ORDER BY key LIMIT {PAGE_ROWS}"  # noqa: S608
        )
        while True:
            with self._lock:
                page = self._db.execute(query, (last,)).fetchall()
            yield from page
            if len(page) < PAGE_ROWS:
                return
            last = page[-1][0]

    # ── rows ──

    def count(self) -> tuple[int, bool]:
        """Live rows, and whether some are outside the output."""
        with self._lock:
            query = "SELECT COALESCE(SUM(rows), 0), COALESCE(MAX(part), 0) FROM done WHERE rows > 0"
            rows, part = self._db.execute(query).fetchone()
        return rows, part > 0

    def live(self) -> Iterator[tuple[int, int, int]]:
        """(part, first, rows) of the live rows, in order; adjacent ranges are joined."""
        part = first = rows = 0
        for next_part, start, length in self._db.execute(LIVE):
            if rows and (next_part, start) == (part, first + rows):
                rows += length
                continue
            if rows:
                yield part, first, rows
            part, first, rows = next_part, start, length
        if rows:
            yield part, first, rows

    def merged(self, facts: Mapping[str, str | None]) -> None:
        """In one transaction: all live rows are in order in the output."""
        with self._transaction():
            for statement in RENUMBER:
                self._db.execute(statement)
            self._note(facts)

    def lose_output(self, *, every: bool = False) -> None:
        """Forget the items of the output, or of `every` part, because it is missing."""
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


def _read_record(path: Path) -> str | None:
    """The checksum of a ledger; None if there is none, or if it is itself damaged."""
    try:
        return str(open_json(path.read_bytes())["xxh3"])
    except (OSError, ValueError, KeyError):
        return None


def _bytes(key: str) -> bytes:
    """A key may be a file name that is not UTF-8, or a text with a lone surrogate."""
    return key.encode("utf-8", "surrogatepass")


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
