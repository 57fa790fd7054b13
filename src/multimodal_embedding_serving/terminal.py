"""What a person at a terminal sees of long work: bars; elsewhere, log lines now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

log = logging.getLogger(__name__)

EVERY = 10.0
"""Seconds between two log lines about the same work."""

Clock = Callable[[], float]
Stages = Callable[[str, float], None]
"""(stage, share of it from 0 to 1)"""


@dataclass(frozen=True, slots=True)
class Work:
    """How far work on many items is."""

    done: int
    total: int | None = None
    """None where nobody has counted them."""
    note: str = ""


@contextmanager
def show_stages(clock: Clock = time.monotonic) -> Iterator[Stages]:
    """A bar for each stage on standard error if that is a terminal, else log lines."""
    if not sys.stderr.isatty():
        yield _logged_stages(clock)
        return
    with _bars("{task.percentage:>3.0f}%") as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, share: float) -> None:
            if stage not in tasks:
                for ended in tasks.values():
                    bars.update(ended, completed=1.0)
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=share)

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


def _logged_stages(clock: Clock) -> Stages:
    told: dict[str, float] = {}

    def tell(stage: str, share: float) -> None:
        if stage not in told:
            log.info("%s", stage)
        elif share < 1 and clock() - told[stage] >= EVERY:
            log.info("%s: %.0f%%", stage, 100 * share)
        else:
            return
        told[stage] = clock()

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


class TerminalLog(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at the time: while bars are shown, that is above them."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """Not kept: whoever replaces sys.stderr is followed anyway."""


def set_up_logging() -> None:
    """Log lines on stderr: what uvicorn says of its address, and what the service says."""
    form = "%(asctime)s %(levelname)-7s %(message)s"
    logging.basicConfig(
        level=logging.INFO, format=form, datefmt="%H:%M:%S", handlers=[TerminalLog()]
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs the URLs that it fetches
