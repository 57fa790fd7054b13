"""A process-wide limit on the memory of images that are being decoded.

Once an image's header has been read, its decoding reserves the memory it will need. Requests are
served in order, so that a stream of small images can't starve a large one, and each image reserves
only once, so that it can't deadlock on itself.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from multimodal_embedding_serving.errors import TooLarge

TRIM_THRESHOLD = 64 << 20
"""Bytes of an image from which freed memory is returned to the system (12 ms for 320 MB)."""


def trim_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    glibc keeps freed blocks for reuse, which the budget would not see. It still holds the ends of
    its threads' arenas, up to 64 MB for each thread that has decoded a large image.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Reserve(Protocol):
    """Called once per image; returns when the memory may be used."""

    def __call__(self, size: int, scratch: int = 0) -> None:
        """`size` bytes for the image, and `scratch` bytes for its decoder."""
        ...


class DecodeBudget:
    """`limit` bytes, shared by all threads."""

    def __init__(self, limit: int) -> None:
        self.limit = self._left = limit
        self._lock = threading.Lock()
        self._waiting: deque[tuple[int, threading.Event]] = deque()

    @property
    def left(self) -> int:
        """Bytes that are not reserved."""
        return self._left

    @property
    def waiting(self) -> int:
        """Images that wait for memory."""
        return len(self._waiting)

    @contextmanager
    def share(self) -> Iterator[Reserve]:
        """Yield a function that reserves memory until the end of the `with`.

        It waits for its turn, and raises TooLarge if the image alone exceeds the whole budget. An
        image whose decoder needs more than the budget reserves all of it and is decoded alone.
        """
        reservation = 0

        def reserve(size: int, scratch: int = 0) -> None:
            nonlocal reservation
            if reservation:
                raise RuntimeError("an image reserves memory once")
            if size > self.limit:
                raise TooLarge(
                    f"decoding the image takes {size >> 20:,} MB; "
                    f"the limit is {self.limit >> 20:,} MB"
                )
            total = min(size + scratch, self.limit)
            self._take(total)
            reservation = total

        try:
            yield reserve
        finally:
            if reservation >= TRIM_THRESHOLD:
                trim_memory()
            self._give(reservation)

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
