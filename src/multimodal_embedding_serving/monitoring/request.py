"""What one request is answerable for: its id, its items, and the bytes that it holds.

`current_request` is the context of the request that the running task belongs to; None in processes
that embed for themselves, which hold what they like.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar

from multimodal_embedding_serving.errors import QueueFull, TooLarge


class MemoryQuota:
    """The bytes that all requests hold together: bodies, what they parse to, fetched media."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.lock = threading.Lock()


class RequestContext:
    """One request's part of the holdings. Safe to use from several threads."""

    def __init__(self, memory_quota: MemoryQuota, request_id: str = "") -> None:
        self.request_id = request_id
        self.items = 0
        """Admitted to the engine."""
        self.held = 0
        self._holdings = memory_quota
        self._closed = False

    def take(self, size: int) -> None:
        """Hold `size` more bytes. Raises TooLarge where no request may hold as many, QueueFull
        where others hold too much now."""
        with self._holdings.lock:
            if self._closed:
                return
            limit = self._holdings.limit
            if self.held + size > limit:
                raise TooLarge(f"the request takes more than {limit >> 20:,} MB of memory")
            if self._holdings.held + size > limit:
                raise QueueFull("too much is waiting to be embedded; try again later")
            self.held += size
            self._holdings.held += size

    def give_back(self, size: int) -> None:
        """The request holds `size` bytes less."""
        with self._holdings.lock:
            size = min(size, self.held)
            self.held -= size
            self._holdings.held -= size

    def close(self) -> None:
        """Give everything back; what is taken or given back later counts no more."""
        self.give_back(self.held)
        self._closed = True


current_request: ContextVar[RequestContext | None] = ContextVar("account", default=None)


def hold(size: int) -> None:
    """Charge `size` bytes to the running request, if there is one. Raises what `take` does."""
    account = current_request.get()
    if account is not None:
        account.take(size)
