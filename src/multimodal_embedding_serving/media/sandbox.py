"""Limits a decoder process: memory, CPU time, files, and a lifetime that ends with its parent.

`isolation` takes more from it, where the kernel can.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import resource
import signal
import sys
from pathlib import Path

from multimodal_embedding_serving.media.budget import trim_memory

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
MMAP_THRESHOLD = 1 << 20
"""Bytes from which a block is its own mapping, and so returns to the system when it is freed."""
MAX_OPEN_FILES = 16
"""The three standard streams, the channel, an input, a ring, a file in `/proc`, and spares."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, and keep `exec`
    from gaining rights.

    Exits if `parent` is already gone.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def confine(memory: int, space: AddressSpace, threshold: int = MMAP_THRESHOLD) -> None:
    """Limit the address space to `memory` bytes above its present size, and forbid writing files.

    Freed blocks of up to `threshold` bytes are reused, larger ones returned to the system. If the
    machine runs out of memory, the kernel kills this process before the service.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    libc = ctypes.CDLL(None)
    # glibc reserves 64 MB of addresses for each thread's heap; they count although nothing uses
    # them. It also learns to keep large blocks on its heaps, where small ones then fragment them.
    libc.mallopt(M_ARENA_MAX, 2)
    libc.mallopt(M_MMAP_THRESHOLD, threshold)
    libc.mallopt(M_TRIM_THRESHOLD, threshold)
    max_space = space.size() + memory
    for limit, value in (
        (resource.RLIMIT_AS, max_space),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
    ):
        resource.setrlimit(limit, (value, value))


def extend_cpu_limit(seconds: float) -> None:
    """Allow this process `seconds` more of CPU time; the kernel kills it after that."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


class AddressSpace:
    """The size of this process's address space; the file that says it stays open."""

    def __init__(self) -> None:
        self._file = os.open("/proc/self/statm", os.O_RDONLY)

    def size(self) -> int:
        """In bytes."""
        pages = os.pread(self._file, 64, 0).split()[0]
        return int(pages) * resource.getpagesize()


def release_memory() -> None:
    """Return freed memory to the system, including frames in reference cycles."""
    gc.collect()
    trim_memory()
