"""Transfers frames from a decoder process: a few slots of shared memory, used in turn.

The memory has no name, so it is freed when the last mapping ends, and its size is sealed, so the
process can't truncate it under the service. A frame is copied into its slot and read there; the
slot is free again when no array refers to the frame.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.errors import NotReady

Pixels = NDArray[np.uint8]

MAX_RING_BYTES = 128 << 20
"""Exceeded only if MIN_SLOTS need more."""
MIN_SLOTS = 3
"""One being read, one waiting, one being filled."""


def seal(file: int, *, contents: bool) -> None:
    """Seal the size of an in-memory file, and with `contents` its data too."""
    import fcntl  # seals exist on Linux only

    seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals | (fcntl.F_SEAL_WRITE if contents else 0))


def sealed_file(kind: str, data: bytes) -> int:
    """A descriptor of a file in memory, never on a disk, that nobody can change.

    `kind` of input: video or image. Raises NotReady (no memory or descriptors).
    """
    try:
        file = os.memfd_create(kind, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        raise NotReady("the server can't open more files; retry later") from None
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]
        seal(file, contents=True)
    except OSError:
        os.close(file)
        raise NotReady(f"not enough memory for the {kind}; retry later") from None
    return file


class Ring:
    """The service's side, which reads."""

    def __init__(self, slot_bytes: int, slots: int) -> None:
        """Create up to `slots` slots; fewer if the frames are large."""
        self.slot_bytes = -(-slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self.slots = max(MIN_SLOTS, min(slots, MAX_RING_BYTES // self.slot_bytes))
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
        """The frame in the slot: uint8 [height, width, 3], read-only. The slot is in use until the
        array and all its views are gone."""
        flat = np.frombuffer(self._memory, np.uint8, height * width * 3, slot * self.slot_bytes)
        weakref.finalize(flat, self.free.put, slot).atexit = False
        return flat.reshape(height, width, 3)

    def close_file(self) -> None:
        """Close the descriptor; the mapping lasts as long as a frame does."""
        os.close(self.file)


class Slots:
    """The process's side, which writes into the slots that the service offers."""

    def __init__(
        self, next_slot: Callable[[], int], grow: Callable[[int], tuple[int, int]]
    ) -> None:
        """`next_slot()` waits for a free slot; `grow(bytes)` requests a larger ring and returns its
        file and the bytes of its slots."""
        self._next_slot, self._grow = next_slot, grow
        self._slot_bytes = 0
        self._memory: mmap.mmap | None = None
        self.last = 0
        """The slot of the last frame."""

    def place(self, pixels: Pixels) -> Pixels:
        """Copy a frame, strided or not, into the next slot."""
        if self._memory is None or pixels.nbytes > self._slot_bytes:
            self._memory = None  # unmapped first: two rings may not fit
            file, self._slot_bytes = self._grow(pixels.nbytes)
            self._memory = mmap.mmap(file, 0)
            os.close(file)
        self.last = self._next_slot()
        start = self.last * self._slot_bytes
        copy = np.frombuffer(self._memory, np.uint8, pixels.size, start).reshape(pixels.shape)
        np.copyto(copy, pixels)
        return copy
