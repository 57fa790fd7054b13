"""What a later run needs of an earlier one, for a job of this machine and for one on a cluster.

Both write numbered parts, end each item as a `Done`, record what their vectors depend on, and
resume only where that is unchanged. They differ in what makes a part count. Here the ledger does,
item by item: files change, and parts are merged into one file. On a cluster (`scale.shards`) the
name of the part's file does: machines that share a folder can't share an SQLite database, for
network file systems do not lock reliably, and no machine may have to list 10^9 items.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.bulk.ledger import Done, ErrorRecord
from multimodal_embedding_serving.bulk.schema import DType, Rows
from multimodal_embedding_serving.bulk.stream import Answer, Refusal, Result
from multimodal_embedding_serving.errors import InvalidInput

FORMAT = 1
"""Of a ledger, a plan, and the parts beside them."""
MAX_VALUE_LENGTH = 200
"""Characters of a recorded value in a message: a plan's arguments may be thousands."""
_NAME = re.compile(r"part-(\d{6,})")


class Part:
    """Results on their way to one part: their rows, and how each item ended."""

    def __init__(self, dtype: DType) -> None:
        self._dtype = dtype
        self.rows = Rows()
        self.done: list[Done] = []
        self._since = time.monotonic()

    def add(self, result: Result) -> None:
        if isinstance(result, Answer):
            item = result.item
            count = self.rows.add(item.key, item.kind, result.vectors, result.frames, self._dtype)
            self.done.append(Done.of(item, count))
        elif isinstance(result, Refusal):
            self.done.append(Done.failed(result.item, result.error))
        else:
            self.done.append(Done(result.key, None, is_file=False, error=result.error))

    def errors(self) -> Iterator[ErrorRecord]:
        return (each.record for each in self.done if each.record is not None)

    def is_due(self, max_rows: int, max_seconds: float) -> bool:
        """Whether to publish the part: it has so many rows, twice as many items, or is so old."""
        return (
            len(self.rows) >= max_rows
            or len(self.done) >= 2 * max_rows
            or time.monotonic() - self._since >= max_seconds
        )


def part_stem(folder: Path, number: int) -> Path:
    """The path of a part's files without their suffixes."""
    return folder / f"part-{number:06}"


def part_number(name: str, suffix: str) -> int | None:
    """The number of a part by its file's name; None for a file that is no part."""
    match = _NAME.fullmatch(name.removesuffix(suffix)) if name.endswith(suffix) else None
    return int(match[1]) if match else None


def check_format(name: str, recorded: Mapping[str, Any]) -> None:
    """Raise InvalidInput for a job that a newer version has started."""
    number = int(recorded.get("format", FORMAT))
    if number > FORMAT:
        raise InvalidInput(
            f"{name} was made by a newer version (format {number}; this one reads {FORMAT}): "
            "upgrade this installation, or use --fresh to start over"
        )


def check_same_job(name: str, recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> None:
    """Raise InvalidInput unless what an earlier run recorded is what is requested now."""
    check_format(name, recorded)
    if changes := differences(recorded, requested):
        advice = "use --fresh to start over"
        if recorded.get("fingerprint") != requested.get("fingerprint"):
            advice += (
                ", or another --out to keep it; `mmes compare` checks whether two models' vectors "
                "are comparable"
            )
        raise InvalidInput(f"{name} was started with {changes}; {advice}")


def differences(recorded: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    """`fingerprint f1, not f2, dtype f32, not f16`; empty if there are none.

    What an earlier version did not record is not compared.
    """
    changes = [
        f"{name} {_shown(recorded[name])}, not {_shown(value)}"
        for name, value in requested.items()
        if recorded.get(name, value) != value
    ]
    return ", ".join(changes)


def _shown(value: Any) -> str:
    text = "none" if value in (None, "") else str(value)
    return text if len(text) <= MAX_VALUE_LENGTH else text[:MAX_VALUE_LENGTH] + "…"
