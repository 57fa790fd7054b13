"""The context of one request: its id, its items, and the memory that it uses.

`current_request` is the context of the request that the running task belongs to. It is None in
processes that embed in-process, whose memory is not limited.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar

from multimodal_embedding_serving.errors import QueueFull, TooLarge


class MemoryQuota:
    """The memory of all requests together: bodies, what they parse to, fetched media."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.lock = threading.Lock()


class RequestContext:
    """One request's share of the quota. Thread-safe."""

    def __init__(self, memory_quota: MemoryQuota, request_id: str = "") -> None:
        self.request_id = request_id
        self.items = 0
        """The number of items embedded for it; a video's frames count one by one."""
        self.used = 0
        self._quota = memory_quota
        self._closed = False

    def reserve(self, size: int) -> None:
        """Reserve `size` more bytes.

        Raises TooLarge if they exceed the limit by themselves, QueueFull if they do together with
        the other requests.
        """
        with self._quota.lock:
            if self._closed:
                return
            limit = self._quota.limit
            if self.used + size > limit:
                raise TooLarge(
                    f"the request needs more than {limit >> 20:,} MB of memory "
                    "(EMBEDDING_MAX_PENDING_MB)"
                )
            if self._quota.used + size > limit:
                raise QueueFull(
                    f"server memory limit for pending requests reached ({limit >> 20:,} MB, "
                    "EMBEDDING_MAX_PENDING_MB); retry later"
                )
            self.used += size
            self._quota.used += size

    def release(self, size: int) -> None:
        """Release `size` bytes."""
        with self._quota.lock:
            size = min(size, self.used)
            self.used -= size
            self._quota.used -= size

    def close(self) -> None:
        """Release everything; later calls have no effect."""
        self.release(self.used)
        self._closed = True


current_request: ContextVar[RequestContext | None] = ContextVar("request", default=None)


def hold(size: int) -> None:
    """Reserve `size` bytes for the current request, if any. Raises TooLarge, QueueFull."""
    request = current_request.get()
    if request is not None:
        request.reserve(size)
