"""How much memory there is, and how much of it this process takes for itself (Linux)."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Self

PROC = Path("/proc")
GROUP = Path("/sys/fs/cgroup")
EVERY = 0.01
"""Seconds between two looks: a conversion's steps take longer."""


def free_memory(proc: Path = PROC, group: Path = GROUP) -> int:
    """Bytes that this process may still take: the machine's, or its control group's if less.

    Without bound where the system does not say.
    """
    free = _fields(proc / "meminfo").get("MemAvailable", sys.maxsize // 1024) * 1024
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()) != "max":
        # Cached files count as used, but give way.
        cached = _fields(group / "memory.stat").get("inactive_file", 0)
        free = min(free, int(most) - int(used.read_text()) + cached)
    return max(free, 0)


def private_memory(proc: Path = PROC) -> int:
    """Bytes that this process holds and shares with no file: not those of mapped checkpoints."""
    return _fields(proc / "self" / "status").get("RssAnon", 0) * 1024


class MemoryPeak:
    """The most private memory that the process held inside the `with` block, in `bytes`.

    `seconds` is how long the block took: what is worth one figure is worth the other.
    """

    def __init__(self) -> None:
        self.bytes, self.seconds = 0, 0.0
        self._started = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-peak", daemon=True)

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, private_memory())
            if self._over.wait(EVERY):
                return


def _fields(path: Path) -> dict[str, int]:
    """`name: number unit` or `name number`, line by line; empty where there is no such file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    words = [line.replace(":", " ").split() for line in lines]
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdigit()}
