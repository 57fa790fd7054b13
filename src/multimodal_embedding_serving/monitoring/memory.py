"""How much memory is free, and how much private memory this process uses (Linux)."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Self

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
SAMPLE_SECONDS = 0.01
"""Seconds between two samples: a conversion's steps take longer."""


def free_memory(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Bytes that this process may still allocate: the machine's, or its cgroup's if less.

    A huge number if the system does not say.
    """
    free = _fields(proc / "meminfo").get("MemAvailable", sys.maxsize // 1024) * 1024
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if limit.is_file() and used.is_file() and (maximum := limit.read_text().strip()) != "max":
        # Cached files count as used, but the kernel evicts them when needed.
        cached = _fields(cgroup / "memory.stat").get("inactive_file", 0)
        free = min(free, int(maximum) - int(used.read_text()) + cached)
    return max(free, 0)


def private_memory(proc: Path = PROC) -> int:
    """Bytes of this process that no file backs, so without memory-mapped checkpoints."""
    return _fields(proc / "self" / "status").get("RssAnon", 0) * 1024


class MemoryPeak:
    """Measures the peak private memory inside a `with` block, in `bytes`, and its `seconds`."""

    def __init__(self) -> None:
        self.bytes, self.seconds = 0, 0.0
        self._started = 0.0
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory-peak", daemon=True)

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self._finished.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, private_memory())
            if self._finished.wait(SAMPLE_SECONDS):
                return


def _fields(path: Path) -> dict[str, int]:
    """Parse lines of `name: number unit` or `name number`; empty if there is no such file."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    parts = [line.replace(":", " ").split() for line in lines]
    return {each[0]: int(each[1]) for each in parts if len(each) > 1 and each[1].isdigit()}
