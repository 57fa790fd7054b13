"""What `/proc` reports of processes: their children, their files, their memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

PATIENCE = 60.0
"""Seconds until a test gives up waiting for something that takes none."""


def children(pid: int) -> list[int]:
    """Processes, not zombies, whose parent is `pid`."""
    pids = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = status.read_text().rpartition(") ")[2].split()[:2]
        except OSError:  # it has ended meanwhile
            continue
        if int(parent) == pid and state not in "ZX":
            pids.append(int(status.parent.name))
    return pids


def runs(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0] not in "ZX"
    except OSError:
        return False


def open_files(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def memory_files(pid: int | str = "self") -> list[str]:
    """Files without a name, and what is shared, that the process maps or holds open."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    held = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    shared = [name for name in (*lines, *held) if "memfd:" in name or "/dev/shm" in name]
    # tqdm makes a POSIX semaphore when transformers first shows a progress bar.
    return [name for name in shared if "/dev/shm/sem." not in name]


def peak_memory(pid: int | str = "self") -> int:
    """The most bytes that were ever resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true; a test that waits here takes no decision by time."""
    pause = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        if condition():
            return True
        pause.wait(0.02)
    return False
