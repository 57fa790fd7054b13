"""What a decoder's process may do: its memory, its time, its files, and no life of its own."""

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
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
LARGE = 1 << 20
"""Bytes from which memory is a mapping of its own, and so goes back whole when it is freed."""
OPEN_FILES = 16
"""Its three standard streams, the channel, a video, a ring, and room for those of `/proc`."""


def die_with(parent: int) -> None:
    """Be killed when the thread that started this process ends, and gain no rights by `exec`.

    Exits where `parent` is gone already.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def confine(memory: int) -> None:
    """Bound the address space to `memory` bytes above what it is now, and forbid to write files.

    Where the machine is out of memory, this process goes before the service.
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    libc = ctypes.CDLL(None)
    # glibc reserves 64 MB for each thread's heap: addresses that nobody uses, but that count. And
    # it learns to keep large blocks on its heaps, where small ones come to lie between them.
    libc.mallopt(M_ARENA_MAX, 2)
    libc.mallopt(M_MMAP_THRESHOLD, LARGE)
    most = address_space() + memory
    for limit, value in (
        (resource.RLIMIT_AS, most),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        resource.setrlimit(limit, (value, value))


def allow_seconds(seconds: float) -> None:
    """Let the process use this much more CPU time, then be killed."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(used.ru_utime + used.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, most))


def address_space() -> int:
    """Bytes of this process's address space."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[0]
    return int(pages) * resource.getpagesize()


def give_back_memory() -> None:
    """Return what has been freed to the system, frames in reference cycles too."""
    gc.collect()
    trim_memory()
