"""The context of one request: its id, its client, its items, and the memory that it uses.

`current_request` is the context of the request that the running task belongs to. It is None in
processes that embed in-process, whose memory is not limited.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar

from multimodal_embedding_serving.errors import QueueFull, TooLarge
from multimodal_embedding_serving.monitoring.admission import Client, Clock, Holdings


class MemoryQuota:
    """The memory of all requests together: bodies, what they parse to, fetched media.

    One client may hold half of it. When it is used up and a client that holds less than its share
    needs more, the latest requests of the clients that hold more than theirs are evicted.
    Thread-safe.
    """

    waiting = 0

    def __init__(self, limit: int, clock: Clock = time.monotonic) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._holdings = Holdings(limit, clock)
        self._requests: dict[Client, dict[RequestContext, None]] = {}

    @property
    def used(self) -> int:
        return self._holdings.total

    held = used

    @property
    def clients(self) -> int:
        return len(self._holdings.by_client)

    def reserve(self, request: RequestContext, size: int) -> None:
        """Charge `size` bytes to a request. Raises TooLarge, QueueFull."""
        with self._lock:
            if request.closed or not size:
                return
            holdings, client = self._holdings, request.client
            self._check_half(request, size)
            if not self._has_room(size) and holdings.of(client) < holdings.share(client):
                self._evict(request, size)
            if not self._has_room(size):
                raise self._full("the server's memory for requests in progress is used up")
            self._requests.setdefault(client, {})[request] = None
            holdings.add(client, size)
            request.used += size

    def check(self, request: RequestContext, size: int) -> None:
        """Raise what `reserve` would if the client's half has no room for `size` more bytes."""
        with self._lock:
            self._check_half(request, size)

    def release(self, request: RequestContext, size: int) -> None:
        """Release `size` bytes of a request, or what it still holds."""
        with self._lock:
            self._release(request, min(size, request.used))

    def close(self, request: RequestContext) -> None:
        """Release all that a request holds; nothing is charged to it any more."""
        with self._lock:
            self._close(request)

    # ── under the lock ──

    def _check_half(self, request: RequestContext, size: int) -> None:
        if request.used + size > self.limit // 2:
            raise TooLarge(
                f"the request needs more than {self.limit >> 21:,} MB of memory, which is half "
                "of EMBEDDING_MAX_PENDING_MB"
            )
        if self._holdings.of(request.client) + size > self.limit // 2:
            raise self._full("this client's requests hold half of the server's memory for them")

    def _has_room(self, size: int) -> bool:
        return self._holdings.total + size <= self.limit

    def _evict(self, request: RequestContext, size: int) -> None:
        """Make room for `size` bytes of this request, as far as others hold more than their share.

        What is evicted is released at once, a moment before its request ends.
        """
        share = self._holdings.share(request.client)
        by_size = sorted(self._holdings.by_client.items(), key=lambda each: -each[1])
        for client, _ in by_size:
            for victim in reversed(list(self._requests.get(client, ()))):
                if self._has_room(size) or self._holdings.of(client) <= share:
                    break
                end = victim.evict
                if victim is not request and end is not None:
                    end(self._full("other clients need the memory that this client holds"))
                    self._close(victim)

    def _close(self, request: RequestContext) -> None:
        self._release(request, request.used)
        request.closed = True

    def _release(self, request: RequestContext, size: int) -> None:
        if size:
            request.used -= size
            self._holdings.remove(request.client, size)
        if not request.used and request in self._requests.get(request.client, ()):
            del self._requests[request.client][request]
            if not self._requests[request.client]:
                del self._requests[request.client]

    def _full(self, reason: str) -> QueueFull:
        return QueueFull(
            f"{reason} ({self._holdings.total >> 20:,} of {self.limit >> 20:,} MB are in use, "
            "EMBEDDING_MAX_PENDING_MB); retry later",
            retry_after=self._holdings.retry_after,
        )


class RequestContext:
    """One request's id, client and share of the quota. Thread-safe."""

    def __init__(
        self, memory_quota: MemoryQuota, request_id: str = "", client: Client = None
    ) -> None:
        self.request_id = request_id
        self.client = client
        """Set before the request holds anything."""
        self.items = 0
        """The number of items embedded for it; a video's frames count one by one."""
        self.used = 0
        """Bytes charged to it."""
        self.closed = False
        self.evict: Callable[[QueueFull], None] | None = None
        """Ends the request with this error, from any thread; None: it can't be ended any more."""
        self._quota = memory_quota

    def reserve(self, size: int) -> None:
        """Reserve `size` more bytes.

        Raises TooLarge if the request exceeds what one client may hold, and QueueFull if its client
        does, or if the memory is used up.
        """
        self._quota.reserve(self, size)

    def check(self, size: int) -> None:
        """Raise what `reserve` would if the client may not hold `size` more bytes."""
        self._quota.check(self, size)

    def release(self, size: int) -> None:
        """Release `size` bytes."""
        self._quota.release(self, size)

    def close(self) -> None:
        """Release everything; later calls have no effect."""
        self._quota.close(self)


current_request: ContextVar[RequestContext | None] = ContextVar("request", default=None)


def current_client() -> Client:
    """The client of the current request; None if there is none."""
    request = current_request.get()
    return None if request is None else request.client


def check_room(size: int) -> None:
    """Check that the client may hold `size` more bytes, which are about to come, if there is a
    request. Raises TooLarge, QueueFull."""
    request = current_request.get()
    if request is not None:
        request.check(size)


def hold(size: int) -> None:
    """Reserve `size` bytes for the current request, if any. Raises TooLarge, QueueFull."""
    request = current_request.get()
    if request is not None:
        request.reserve(size)
