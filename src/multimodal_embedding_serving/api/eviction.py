"""Ends a request whose memory other clients need, with the error that says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from multimodal_embedding_serving.errors import QueueFull
from multimodal_embedding_serving.monitoring.request import RequestContext


@asynccontextmanager
async def evictable(request: RequestContext) -> AsyncIterator[None]:
    """Let `request.evict` end the `async with` block, which then raises the error.

    Set `request.evict` to None once the response has begun: it can't be another one then.
    """
    loop, scope = asyncio.get_running_loop(), asyncio.timeout(None)
    reason: QueueFull | None = None

    def cancel() -> None:
        if request.evict is not None:
            scope.reschedule(loop.time())

    def evict(error: QueueFull) -> None:
        nonlocal reason
        reason = error
        loop.call_soon_threadsafe(cancel)

    request.evict = evict
    try:
        async with scope:
            try:
                yield
            finally:
                request.evict = None
    except TimeoutError:
        if reason is None or not scope.expired():
            raise
        raise reason from None
