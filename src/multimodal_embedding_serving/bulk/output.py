"""A job's output file: parts beside it while the job runs, merged into it at the end.

Beside `vectors.parquet` is the folder `vectors.parquet.state`: the ledger, and the parts of a job
that has not finished. The folder stays, so that a second run knows what is done.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from filelock import FileLock, Timeout

from multimodal_embedding_serving.bulk.formats import Format, Piece, files_at, find_format, flush
from multimodal_embedding_serving.bulk.ledger import ErrorRecord, Ledger, OutputDamaged
from multimodal_embedding_serving.bulk.parts import part_stem
from multimodal_embedding_serving.bulk.schema import Layout, Rows
from multimodal_embedding_serving.bundles.checksums import checksums
from multimodal_embedding_serving.errors import Forbidden, InvalidInput, NotFound

log = logging.getLogger(__name__)

STATE = ".state"
LEDGER = "ledger.sqlite"
LOCK = "lock"
FACT = "checksums-"
NAMED = (NotFound.code, Forbidden.code)
"""Codes of messages that may end in the path of a file; see `items.unreadable`."""
MAX_REASONS = 1000
"""Different ones that are counted: a message may quote its input."""
OTHER_REASONS = "other reasons"


class Output(Protocol):
    """Where rows go. What `write` has written counts once the ledger publishes it."""

    state: Path
    """The folder of the ledger."""

    @property
    def errors_file(self) -> Path:
        """Where `finish` lists what could not be embedded, if there is anything."""
        ...

    def open(self, ledger: Ledger, layout: Layout, *, fresh: bool) -> None:
        """Finish the merge of a killed job, or `fresh`: replace the output.

        Raises InvalidInput if the output was changed by something else.
        """
        ...

    def write(self, part: int, rows: Rows, keys: Sequence[str]) -> None:
        """Write a part; `keys` are its items that had rows before. Durable on return."""
        ...

    def remove(self, keys: Sequence[str]) -> None: ...

    def finish(self, ledger: Ledger) -> None: ...

    def close(self) -> None: ...


class FileOutput:
    """Rows in one file, or a `.npy` and its JSONL."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidInput for a suffix that no format has, MissingExtra."""
        self._format_class: type[Format] = find_format(path)
        self.path = path
        self.state = path.with_name(path.name + STATE)
        self.errors_file = path.with_suffix(".errors.jsonl")

    def open(self, ledger: Ledger, layout: Layout, *, fresh: bool) -> None:
        self._format, self._ledger = self._format_class(layout), ledger
        if fresh:
            ledger.note({"stamp": self._stamp()})
            return
        facts = ledger.facts()
        if "pending" in facts:
            self._replace(ledger)
            return
        stamp, current = facts.get("stamp"), self._stamp()
        if current == stamp:
            if current is not None:
                self._check(facts, 0)
            return
        if current is None:
            log.warning("%s is missing; embedding its inputs again", self.path.name)
            ledger.lose_output()
            ledger.note({"stamp": None, "rows": None})
        else:
            why = "was changed by something else" if stamp else "was not written by this job"
            raise OutputDamaged(f"{self.path.name} {why}; use --fresh to overwrite it")

    def write(self, part: int, rows: Rows, keys: Sequence[str]) -> None:
        self._format.write(self._part(part), rows)
        flush(self.state)
        self._ledger.note({_fact(part): self._checksums(part)})

    def remove(self, keys: Sequence[str]) -> None:
        """Do nothing: the next merge skips rows that the ledger no longer names."""

    def finish(self, ledger: Ledger) -> None:
        """Merge all live rows into one file, if they are not there; then write the errors."""
        rows, outside = ledger.count()
        facts = ledger.facts()
        if outside or facts.get("rows") != str(rows):
            parts = {part for part, _, _ in ledger.live()}
            for part in parts - {0}:  # the output itself was checked when it was opened
                self._check(facts, part)
            self._format.merge(self.state / "merged", self._pieces(ledger), rows)
            flush(self.state)
            # From here on the merged file is the output, whatever its name still is.
            merged: dict[str, str | None] = {name: None for name in facts if name.startswith(FACT)}
            merged[_fact(0)] = json.dumps(checksums(self._merged()))
            ledger.merged({**merged, "pending": "1", "rows": str(rows)})
            self._replace(ledger)
        write_errors(self.errors_file, ledger.errors())

    def close(self) -> None:
        """Do nothing: no file is open between calls."""

    def _files(self) -> list[Path]:
        return files_at(self.path.with_suffix(""), self._format_class.suffixes)

    def _merged(self) -> list[Path]:
        return files_at(self.state / "merged", self._format_class.suffixes)

    def _checksums(self, part: int) -> str:
        return json.dumps(checksums(files_at(self._part(part), self._format_class.suffixes)))

    def _check(self, facts: Mapping[str, str], part: int) -> None:
        """Raise OutputDamaged unless a part's files are as they were written.

        What an earlier version wrote has no checksums.
        """
        recorded = facts.get(_fact(part))
        try:
            whole = recorded is None or recorded == self._checksums(part)
        except FileNotFoundError:
            whole = False
        if not whole:
            where = f"a part of {self.path.name}" if part else self.path.name
            raise OutputDamaged(f"{where} is damaged; use --fresh to start over")

    def _part(self, number: int) -> Path:
        return part_stem(self.state, number) if number else self.path.with_suffix("")

    def _pieces(self, ledger: Ledger) -> Iterator[Piece]:
        return (Piece(self._part(part), first, rows) for part, first, rows in ledger.live())

    def _replace(self, ledger: Ledger) -> None:
        """Rename the merged files; a run after a kill in here completes it."""
        for source, target in zip(self._merged(), self._files(), strict=True):
            if source.exists():
                source.replace(target)
        flush(self.path.parent)
        ledger.note({"pending": None, "stamp": self._stamp()})
        for part in self.state.glob("part-*"):
            part.unlink()

    def _stamp(self) -> str | None:
        """Sizes and times of the output's files; None if one is missing."""
        try:
            stats = [path.stat() for path in self._files()]
        except FileNotFoundError:
            return None
        return json.dumps([(each.st_size, each.st_mtime_ns) for each in stats])


def _fact(part: int) -> str:
    """The fact with the checksums of a part's files; part 0 is the output."""
    return f"{FACT}{part}"


def count_reasons(errors: Iterable[ErrorRecord]) -> dict[str, int]:
    """Reason -> number of inputs, most frequent first. Names of files are left out."""
    reasons: Counter[str] = Counter()
    for _, code, message in errors:
        reason = message.rsplit(": /", 1)[0] if code in NAMED else message
        known = reason in reasons or len(reasons) < MAX_REASONS
        reasons[reason if known else OTHER_REASONS] += 1
    return dict(reasons.most_common())


def write_errors(path: Path, errors: Iterable[ErrorRecord]) -> None:
    """Write a line for each item that could not be embedded; no file if there is none."""
    new, count = path.with_name(path.name + ".new"), 0
    with new.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for count, (key, code, message) in enumerate(errors, 1):  # noqa: B007
            line = {"path": key, "code": code, "message": message}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    if count:
        new.replace(path)
    else:
        new.unlink()
        path.unlink(missing_ok=True)


def forget(state: Path) -> None:
    """Remove the ledger and all parts, but not the lock, which this job holds."""
    for path in state.iterdir():
        if path.name != LOCK:
            path.unlink()


def lock(state: Path, *, wait: bool = False) -> FileLock:
    """Acquire the lock of an output. Raises InvalidInput if another job holds it."""
    state.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(state / LOCK)
    try:
        file_lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise InvalidInput(
            f"another job is writing to {state.name.removesuffix(STATE)}; wait for it to finish"
        ) from None
    return file_lock
