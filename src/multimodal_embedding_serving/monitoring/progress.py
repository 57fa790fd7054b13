"""Progress of long work: bars on a terminal, and log lines now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multimodal_embedding_serving.types import Progress

log = logging.getLogger(__name__)

LOG_SECONDS = 10.0
"""Seconds between two log lines about the same work."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Work:
    """The progress of work on many items."""

    done: int
    total: int | None = None
    """None if it is not known."""
    note: str = ""


class TransferRate:
    """The rate of a transfer since the first report of its stage."""

    def __init__(self, share: float, clock: Clock) -> None:
        self._first, self._clock, self._started = share, clock, clock()

    def describe(self, share: float) -> str:
        """The size and the rate; empty if the share has no size."""
        from multimodal_embedding_serving.types import Portion  # with numpy: not for `--help`

        if not isinstance(share, Portion) or not share.size:
            return ""
        size = f"of {share.size / 1e6:,.1f} MB"
        seconds = self._clock() - self._started
        if not seconds or share <= self._first:
            return size
        return f"{size}, {(share - self._first) * share.size / seconds / 1e6:,.1f} MB/s"


@contextmanager
def show_stages(clock: Clock = time.monotonic) -> Iterator[Progress]:
    """Show a bar for each stage on standard error if that is a terminal, else log lines."""
    if not sys.stderr.isatty():
        yield _log_stages(clock)
        return
    with _bars("{task.percentage:>3.0f}%", "{task.fields[rate]}") as bars:
        tasks: dict[str, tuple[Any, TransferRate]] = {}

        def show(stage: str, share: float) -> None:
            if stage not in tasks:
                for previous, _ in tasks.values():
                    bars.update(previous, completed=1.0)
                tasks[stage] = bars.add_task(stage, total=1.0, rate=""), TransferRate(share, clock)
            task, rate = tasks[stage]
            bars.update(task, completed=share, rate=rate.describe(share))

        yield show


@contextmanager
def show_work(description: str, clock: Clock = time.monotonic) -> Iterator[Callable[[Work], None]]:
    """Show one bar with rate and remaining time on a terminal, else log lines."""
    if not sys.stderr.isatty():
        yield _log_work(description, clock)
        return
    columns = "{task.completed} of {task.fields[of]}", "{task.fields[rate]}", "{task.fields[note]}"
    with _bars(*columns) as bars:
        task = bars.add_task(description, total=None, of="?", rate="", note="")

        def show(work: Work) -> None:
            of = "?" if work.total is None else f"{work.total:,}"
            speed = bars.tasks[0].speed
            rate = f"{speed:.1f}/s" if speed else ""
            bars.update(
                task, completed=work.done, total=work.total, of=of, rate=rate, note=work.note
            )

        yield show


def _bars(*texts: str) -> Any:
    """rich's Progress with these columns, then the elapsed and the remaining time."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = [TextColumn(text) for text in texts]
    times = TextColumn("elapsed"), TimeElapsedColumn(), TextColumn("remaining"), Remaining()
    first = TextColumn("{task.description}"), BarColumn(bar_width=30)
    return Progress(*first, *columns, *times, console=Console(stderr=True))


def _log_stages(clock: Clock) -> Progress:
    stages: dict[str, tuple[float, TransferRate]] = {}

    def report(stage: str, share: float) -> None:
        if stage not in stages:
            stages[stage] = clock(), TransferRate(share, clock)
            log.info("%s", stage)
            return
        last, rate = stages[stage]
        if share < 1 and clock() - last >= LOG_SECONDS:
            stages[stage] = clock(), rate
            log.info("%s", f"{stage}: {share:.0%} {rate.describe(share)}".rstrip())

    return report


def _log_work(description: str, clock: Clock) -> Callable[[Work], None]:
    started = last = clock()

    def report(work: Work) -> None:
        nonlocal last
        now = clock()
        if now - last < LOG_SECONDS:
            return
        last = now
        rate = work.done / (now - started)
        of = "" if work.total is None else f" of {work.total:,}"
        remaining = ""
        if work.total is not None and rate:
            remaining = f", {_time((work.total - work.done) / rate)} remaining"
        note = f"; {work.note}" if work.note else ""
        log.info("%s: %s%s, %.1f/s%s%s", description, f"{work.done:,}", of, rate, remaining, note)

    return report


def _time(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
