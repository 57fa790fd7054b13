"""What a person at a terminal sees of long work: bars; elsewhere, log lines now and then."""

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

EVERY = 10.0
"""Seconds between two log lines about the same work."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Work:
    """How far work on many items is."""

    done: int
    total: int | None = None
    """None where nobody has counted them."""
    note: str = ""


class Pace:
    """How fast bytes come, since the first word of their stage."""

    def __init__(self, share: float, clock: Clock) -> None:
        self._first, self._clock, self._since = share, clock, clock()

    def told(self, share: float) -> str:
        """The size and the rate; empty where there is none."""
        from multimodal_embedding_serving.types import Portion  # with numpy: not for `--help`

        if not isinstance(share, Portion) or not share.size:
            return ""
        size = f"of {share.size / 1e6:,.1f} MB"
        passed = self._clock() - self._since
        if not passed or share <= self._first:
            return size
        return f"{size}, {(share - self._first) * share.size / passed / 1e6:,.1f} MB/s"


@contextmanager
def show_stages(clock: Clock = time.monotonic) -> Iterator[Progress]:
    """A bar for each stage on standard error if that is a terminal, else log lines."""
    if not sys.stderr.isatty():
        yield _logged_stages(clock)
        return
    with _bars("{task.percentage:>3.0f}%", "{task.fields[pace]}") as bars:
        tasks: dict[str, tuple[Any, Pace]] = {}

        def show(stage: str, share: float) -> None:
            if stage not in tasks:
                for ended, _ in tasks.values():
                    bars.update(ended, completed=1.0)
                tasks[stage] = bars.add_task(stage, total=1.0, pace=""), Pace(share, clock)
            task, pace = tasks[stage]
            bars.update(task, completed=share, pace=pace.told(share))

        yield show


@contextmanager
def show_work(what: str, clock: Clock = time.monotonic) -> Iterator[Callable[[Work], None]]:
    """One bar with rate and remaining time on a terminal, else log lines."""
    if not sys.stderr.isatty():
        yield _logged_work(what, clock)
        return
    columns = "{task.completed} of {task.fields[of]}", "{task.fields[rate]}", "{task.fields[note]}"
    with _bars(*columns) as bars:
        task = bars.add_task(what, total=None, of="?", rate="", note="")

        def show(work: Work) -> None:
            of = "?" if work.total is None else f"{work.total:,}"
            speed = bars.tasks[0].speed
            rate = f"{speed:.1f}/s" if speed else ""
            bars.update(
                task, completed=work.done, total=work.total, of=of, rate=rate, note=work.note
            )

        yield show


def _bars(*texts: str) -> Any:
    """rich's Progress with these columns, then the remaining time."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = [TextColumn(text) for text in texts]
    times = TimeElapsedColumn(), TextColumn("left"), Remaining()
    first = TextColumn("{task.description}"), BarColumn(bar_width=30)
    return Progress(*first, *columns, *times, console=Console(stderr=True))


def _logged_stages(clock: Clock) -> Progress:
    told: dict[str, tuple[float, Pace]] = {}

    def tell(stage: str, share: float) -> None:
        if stage not in told:
            told[stage] = clock(), Pace(share, clock)
            log.info("%s", stage)
            return
        last, pace = told[stage]
        if share < 1 and clock() - last >= EVERY:
            told[stage] = clock(), pace
            log.info("%s", f"{stage}: {share:.0%} {pace.told(share)}".rstrip())

    return tell


def _logged_work(what: str, clock: Clock) -> Callable[[Work], None]:
    started = told = clock()

    def tell(work: Work) -> None:
        nonlocal told
        now = clock()
        if now - told < EVERY:
            return
        told = now
        rate = work.done / (now - started)
        of = "" if work.total is None else f" of {work.total:,}"
        left = ""
        if work.total is not None and rate:
            left = f", {_time((work.total - work.done) / rate)} left"
        note = f"; {work.note}" if work.note else ""
        log.info("%s: %s%s, %.1f/s%s%s", what, f"{work.done:,}", of, rate, left, note)

    return tell


def _time(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
