"""A folder that many machines share: a plan, cut into shards, and a file per finished shard.

    out/_plan/000000.jsonl          the items of shard 0, or the range of a table's rows
    out/_plan/plan.json             written last: the plan is complete
    out/_plan/model.json            the model, written by the first machine that loaded it
    out/part-000000.parquet         shard 0 is done
    out/_errors/000000.jsonl        its items that could not be embedded
    out/_sums/000000-<checksum>     an empty file: a machine wrote shard 0 with these contents

A shard is done exactly when its file has its final name, which it gets once it is complete and
flushed. So any number of machines may start the same shard and any of them may finish it; nothing
is lost or written twice. Readers of Parquet folders skip names that begin with `_`. `bulk.parts`
has what local jobs share with this, and explains why there is no ledger here.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from multimodal_embedding_serving.bulk.formats import Durable, Parquet, files_at, flush
from multimodal_embedding_serving.bulk.items import TABLE_SUFFIX, Failure, Item, absolute
from multimodal_embedding_serving.bulk.ledger import ErrorRecord, OutputDamaged
from multimodal_embedding_serving.bulk.listing import Listing, ListingEntry
from multimodal_embedding_serving.bulk.output import count_reasons, write_errors
from multimodal_embedding_serving.bulk.parts import (
    FORMAT,
    Part,
    check_format,
    check_same_job,
    differences,
    part_number,
    part_stem,
)
from multimodal_embedding_serving.bulk.schema import Layout, Rows, arrow_table
from multimodal_embedding_serving.bulk.stream import Result
from multimodal_embedding_serving.bulk.tables import Range, count_rows
from multimodal_embedding_serving.bundles.checksums import checksum, open_json, seal_json
from multimodal_embedding_serving.errors import InvalidInput, ModelMismatch

PLAN_FIELDS = ("format", "arguments", "dtype", "segment", "shard_items", "shards", "items")
"""Of plan.json without checksums, as earlier versions wrote it."""
DEFAULT_SHARD_ITEMS = 2048
"""In a shard: what has to be repeated if a machine is lost."""
DEFAULT_GROUP_ROWS = 2048
"""In a row group: what a shard of long videos keeps in memory."""


@dataclass(frozen=True, slots=True)
class Request:
    """The arguments of a job; a run with the same ones resumes it."""

    arguments: tuple[str, ...]
    dtype: str = "f32"
    segment: Mapping[str, Any] | None = None
    """Which frames of a video, as segment_config."""
    shard_items: int = DEFAULT_SHARD_ITEMS

    def facts(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "arguments": list(self.arguments)}


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts of what is in the folder."""

    shards: int
    done: int
    items: int
    rows: int
    reasons: Mapping[str, int]
    """Why inputs could not be embedded, each with their number."""

    @property
    def errors(self) -> int:
        return sum(self.reasons.values())


class Shards:
    """The folder. Any machine may read it; only one may plan."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._plan, self._errors = folder / "_plan", folder / "_errors"
        self._sums = folder / "_sums"

    # ── the plan ──

    def plan(self, request: Request, *, fresh: bool = False) -> None:
        """List the request's items, unless an earlier run did; `fresh` starts over.

        Raises InvalidInput if the folder holds another job, OutputDamaged if its files are not as
        they were written, OSError, MissingExtra.
        """
        if fresh:
            self._forget()
        recorded = self._facts()
        if recorded is None:
            if self._folder.is_dir() and set(self.done()):
                raise InvalidInput(
                    f"{self._folder} contains Parquet files of another job; choose an empty "
                    "folder, or use --fresh to overwrite them"
                )
            self._list(request)
            return
        check_same_job(str(self._folder), recorded, request.facts())
        for number in sorted(self.done()):
            self._check_part(number)

    def _check_part(self, number: int) -> None:
        """What an earlier version wrote has no checksum."""
        known = {each.name for each in self._sums.glob(f"{number:06}-*")}
        part = self._part(number)
        if known and f"{number:06}-{checksum(part)}" not in known:
            raise OutputDamaged(
                f"{part} is damaged; delete it, and its items are embedded again by the next run"
            )

    def _list(self, request: Request) -> None:
        for folder in (self._plan, self._errors, self._sums):
            shutil.rmtree(folder, ignore_errors=True)  # of a plan that was interrupted
            folder.mkdir(parents=True)
        number = items = 0
        digests: list[str] = []
        failures: list[ErrorRecord] = []
        for lines, count in _cut(request, failures):
            with Durable(self._plan / f"{number:06}.jsonl") as file:
                file.writelines(json.dumps(line).encode() + b"\n" for line in lines)
            digests.append(checksum(self._plan / f"{number:06}.jsonl"))
            number, items = number + 1, items + count
        write_errors(self._errors / "plan.jsonl", failures)
        facts = {**request.facts(), "shards": number, "items": items, "checksums": digests}
        self._replace(seal_json(facts).encode(), self._plan / "plan.json")

    def _forget(self) -> None:
        for folder in (self._plan, self._errors, self._sums):
            shutil.rmtree(folder, ignore_errors=True)
        for number in list(self.done()):
            self._part(number).unlink(missing_ok=True)

    def _facts(self) -> dict[str, Any] | None:
        try:
            return self._read_sealed(self._plan / "plan.json", {*PLAN_FIELDS})
        except FileNotFoundError:
            return None

    def _read_sealed(self, path: Path, plain: set[str]) -> dict[str, Any]:
        """A file with its checksum, or one of an earlier version, which has these fields only."""
        try:
            data = path.read_bytes()
            content: object = json.loads(data)
            if isinstance(content, dict) and type(content.get("format")) is int:
                check_format(str(self._folder), content)
            if not isinstance(content, dict) or content.keys() - plain:
                content = open_json(data)
        except ValueError:
            raise self._damaged(path) from None
        return content

    def _damaged(self, path: Path) -> OutputDamaged:
        return OutputDamaged(f"{path} is damaged; use --fresh to start over")

    def pending(self) -> list[int]:
        """The shards that are not done."""
        facts = self._facts() or {"shards": 0}
        return sorted(set(range(facts["shards"])) - set(self.done()))

    def item_count(self) -> int:
        """Of the whole plan."""
        return int((self._facts() or {"items": 0})["items"])

    def items(self, number: int) -> Iterator[ListingEntry]:
        """A shard's items; tables are read lazily. Raises OutputDamaged."""
        for line in self._lines_of(number):
            yield from _read_line(json.loads(line))

    def count(self, number: int) -> int:
        """The number of a shard's items. Raises OutputDamaged."""
        return sum(json.loads(line).get("rows", 1) for line in self._lines_of(number))

    def _lines_of(self, number: int) -> list[bytes]:
        path = self._plan / f"{number:06}.jsonl"
        digests = (self._facts() or {}).get("checksums")
        if digests is not None and digests[number] != checksum(path):
            raise self._damaged(path)
        return path.read_bytes().splitlines()

    # ── the work ──

    def agree(self, layout: Layout) -> None:
        """Check this machine's model against that of the first one. Raises ModelMismatch."""
        path = self._plan / "model.json"
        own = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        own.write_text(seal_json(asdict(layout)), "utf-8")
        try:
            os.link(own, path)  # atomic on network file systems, too
        except FileExistsError:
            pass
        finally:
            own.unlink()
        recorded = self._read_sealed(path, {*asdict(layout)})
        if changes := differences(recorded, asdict(layout)):
            raise ModelMismatch(
                f"{self._folder} was started with {changes}: this machine's {layout.model} has "
                "other vectors; use the same model and EMBEDDING_PRECISION on all machines"
            )

    def write(
        self, number: int, layout: Layout, *, group_rows: int = DEFAULT_GROUP_ROWS
    ) -> ShardFile:
        """A shard's file: enter it, add results, publish it."""
        temporary = self._folder / f"_{number:06}.{uuid.uuid4().hex}.parquet"
        return ShardFile(temporary, layout, group_rows, lambda file: self._publish(number, file))

    def _publish(self, number: int, file: ShardFile) -> None:
        write_errors(self._errors / f"{number:06}.jsonl", file.part.errors())
        flush(self._errors)
        flush(file.path)
        self._sums.mkdir(exist_ok=True)
        (self._sums / f"{number:06}-{checksum(file.path)}").touch()
        flush(self._sums)
        file.path.replace(self._part(number))
        flush(self._folder)

    # ── the end ──

    def tidy(self) -> None:
        """Remove the temporary files of lost machines. No machine may be working."""
        for path in self._folder.glob("_*.parquet"):
            path.unlink(missing_ok=True)

    def totals(self) -> Totals:
        """Counted from the files."""
        facts = self._facts() or {"shards": 0, "items": 0}
        done = list(self.done())
        rows = sum(count_rows(self._part(number)) for number in done)
        reasons = count_reasons(self._error_records())
        return Totals(facts["shards"], len(done), facts["items"], rows, reasons)

    @property
    def errors_folder(self) -> Path:
        """Its files list what could not be embedded."""
        return self._errors

    def _error_records(self) -> Iterator[ErrorRecord]:
        for path in self._errors.glob("*.jsonl"):
            with path.open("rb") as lines:
                for line in map(json.loads, lines):
                    yield line["path"], line["code"], line["message"]

    def done(self) -> Iterator[int]:
        """The shards that are done, in no order."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                number = part_number(entry.name, Parquet.suffixes[0])
                if number is not None:
                    yield number

    def _part(self, number: int) -> Path:
        return files_at(part_stem(self._folder, number), Parquet.suffixes)[0]

    def _replace(self, content: bytes, path: Path) -> None:
        new = path.with_name(path.name + ".new")
        with Durable(new) as file:
            file.write(content)
        new.replace(path)
        flush(path.parent)


class ShardFile:
    """A shard's part on its way to the disk. Unless it is published, nothing of it remains."""

    def __init__(
        self, path: Path, layout: Layout, group_rows: int, publish: Callable[[ShardFile], None]
    ) -> None:
        self.path, self._layout, self._group_rows = path, layout, group_rows
        self._publish = publish
        self.part = Part(layout.dtype)
        """How all items of the shard ended, and the rows that are not written yet."""
        self.row_count = 0

    def __enter__(self) -> Self:
        self._writer = Parquet(self._layout).writer(self.path)
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self.path.unlink(missing_ok=True)

    def add(self, result: Result) -> None:
        self.part.add(result)
        if len(self.part.rows) >= self._group_rows:
            self._write_group()

    def publish(self) -> None:
        """The shard is done."""
        if self.part.rows:
            self._write_group()
        self._writer.close()
        self._publish(self)

    def _write_group(self) -> None:
        self._writer.write_table(arrow_table(self.part.rows, self._layout))
        self.row_count += len(self.part.rows)
        self.part.rows = Rows()


def _cut(
    request: Request, failures: list[ErrorRecord]
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """The lines of each shard, and the number of its items."""
    lines: list[dict[str, Any]] = []
    for entry in _entries(request.arguments):
        if isinstance(entry, Range):
            total = count_rows(entry.path)
            for first in range(0, total, request.shard_items):
                rows = min(request.shard_items, total - first)
                yield [{"table": absolute(entry.path), "first": first, "rows": rows}], rows
        elif isinstance(entry, Failure):
            failures.append((entry.key, entry.error.code, entry.error.message))
        else:
            lines.append(_line(entry))
            if len(lines) == request.shard_items:
                yield lines, len(lines)
                lines = []
    if lines:
        yield lines, len(lines)


def _entries(arguments: Iterable[str]) -> Iterator[ListingEntry | Range]:
    """The entries of a listing, but a table as its range of rows: it is cut without being read."""
    for argument in dict.fromkeys(arguments):
        if Path(argument).suffix.lower() == TABLE_SUFFIX and Path(argument).is_file():
            yield Range(Path(argument))
        else:
            yield from Listing((argument,), bare_texts=False)


def _line(item: Item) -> dict[str, Any]:
    source = item.source
    if isinstance(source, Path):
        place: dict[str, Any] = {"path": absolute(source)}
    else:
        place = {"url" if item.kind != "text" else "text": source}
    return {"key": item.key, "kind": item.kind, "mark": item.mark, **place}


def _read_line(line: Mapping[str, Any]) -> Iterator[ListingEntry]:
    if "table" in line:
        yield from Listing(()).table(Range(Path(line["table"]), line["first"], line["rows"]))
        return
    source = Path(line["path"]) if "path" in line else line.get("url") or line["text"]
    yield Item(line["key"], line["kind"], source, line["mark"])
