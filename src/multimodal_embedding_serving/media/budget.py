"""A process-wide bound on the memory of pictures that are being decoded.

Each picture asks, once its header has told its size, for what it will take. Who asked first is
served first, so that no stream of small pictures keeps a large one waiting; and each holds one
share at most, so that nobody waits for itself.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from multimodal_embedding_serving.errors import TooLarge

LARGE = 64 << 20
"""Bytes of a picture after which freed memory is handed back: 12 ms after one of 320 MB."""


def trim_memory() -> None:
    """Return to the system what has been freed, where the C library can (glibc's).

    It keeps freed blocks between others, which no budget would know of. What is left are the ends
    of its threads' arenas, up to 64 MB for each thread that has decoded a large picture.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Reserve(Protocol):
    """Called once a picture; returns when the bytes may be taken."""

    def __call__(self, size: int, scratch: int = 0) -> None:
        """`size` bytes for the picture, and `scratch` for what decodes it."""
        ...


class DecodeBudget:
    """`limit` bytes, shared by all threads."""

    def __init__(self, limit: int) -> None:
        self.limit = self._left = limit
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    @property
    def left(self) -> int:
        """Bytes that nobody holds."""
        return self._left

    @property
    def waiting(self) -> int:
        """Pictures that wait for their turn."""
        return len(self._waiting)

    @contextmanager
    def share(self) -> Iterator[Reserve]:
        """What is reserved inside is held until the end of the `with`.

        Reserving waits for its turn, and raises TooLarge where the whole budget would not do for
        the picture; one whose decoder needs more than the budget is decoded alone.
        """
        held = 0

        def reserve(size: int, scratch: int = 0) -> None:
            nonlocal held
            if held:
                raise RuntimeError("one picture holds one share")
            if size > self.limit:
                raise TooLarge(
                    f"the image takes {size >> 20:,} MB to decode; "
                    f"the limit is {self.limit >> 20:,} MB"
                )
            wanted = min(size + scratch, self.limit)
            self._take(wanted)
            held = wanted

        try:
            yield reserve
        finally:
            if held >= LARGE:
                trim_memory()
            self._give(held)

    def _take(self, size: int) -> None:
        with self._lock:
            if not self._waiting and size <= self._left:
                self._left -= size
                return
            turn = threading.Event()
            self._waiting.append((size, turn))
        turn.wait()

    def _give(self, size: int) -> None:
        with self._lock:
            self._left += size
            while self._waiting and self._waiting[0][0] <= self._left:
                first, turn = self._waiting.popleft()
                self._left -= first
                turn.set()
