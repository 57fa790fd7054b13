"""Frames on their way from a decoder's process: a few slots of shared memory, used in turn.

The memory has no name, so that it is gone with the last who maps it; and its size is sealed, so
that the process can't pull it away under the service. A frame is copied into its slot and read
there; the slot is free again when nobody looks at the frame any more.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

MEMORY = 128 << 20
"""Bytes of one ring, as long as the least slots fit."""
LEAST_SLOTS = 3
"""One that is looked at, one that waits, one that is filled."""


def seal(file: int, *, contents: bool) -> None:
    """Fix the size of a file in memory for ever, and its contents too if so wished."""
    import fcntl  # what seals are is Linux's own

    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals | (fcntl.F_SEAL_WRITE if contents else 0))


class Ring:
    """The service's side: it reads."""

    def __init__(self, slot_bytes: int, slots: int) -> None:
        """`slots` at most; fewer where frames are large."""
        self.slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.slots = max(LEAST_SLOTS, min(slots, MEMORY // self.slot_bytes))
        size = self.slots * self.slot_bytes
        self.file = os.memfd_create("frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.file, size)
            seal(self.file, contents=False)
            self._memory = mmap.mmap(self.file, size, access=mmap.ACCESS_READ)
        except OSError:
            os.close(self.file)
            raise
        self.free: SimpleQueue[int] = SimpleQueue()
        for slot in range(self.slots):
            self.free.put(slot)

    def frame(self, slot: int, height: int, width: int) -> Pixels:
        """What the slot holds, uint8 [height, width, 3], read only; the slot is taken until the
        array and all views of it are gone."""
        flat = np.frombuffer(self._memory, np.uint8, height * width * 3, slot * self.slot_bytes)
        weakref.finalize(flat, self.free.put, slot).atexit = False
        return flat.reshape(height, width, 3)

    def close_file(self) -> None:
        """The mapping stays as long as a frame does."""
        os.close(self.file)


class Slots:
    """The process's side: it writes where it is told to."""

    def __init__(
        self, next_slot: Callable[[], int], grow: Callable[[int], tuple[int, int]]
    ) -> None:
        """`next_slot()` waits for one; `grow(bytes)` answers another ring: its file and the bytes
        of its slots."""
        self._next_slot, self._grow = next_slot, grow
        self._slot_bytes = 0
        self._memory: mmap.mmap | None = None
        self.last = 0
        """Where the last picture went."""

    def place(self, pixels: Pixels) -> Pixels:
        """Copy a picture, strided or not, into the next slot."""
        if self._memory is None or pixels.nbytes > self._slot_bytes:
            self._memory = None  # before the next one is mapped: both may not fit
            file, self._slot_bytes = self._grow(pixels.nbytes)
            self._memory = mmap.mmap(file, 0)
            os.close(file)
        self.last = self._next_slot()
        start = self.last * self._slot_bytes
        placed = np.frombuffer(self._memory, np.uint8, pixels.size, start).reshape(pixels.shape)
        np.copyto(placed, pixels)
        return placed
