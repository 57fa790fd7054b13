"""What a person at a terminal sees of long work: bars, and log lines that do not break them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def show_stages() -> Iterator[Callable[[str, float], None]]:
    """(stage, share of it) -> a bar for each stage on standard error, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda stage, share: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskID,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, share: float) -> None:
            if stage not in tasks:
                for ended in tasks.values():
                    bars.update(ended, completed=1.0)
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=share)

        yield show


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
