"""One client's connection, bounded: how long a head may take and how large it may be, how long an
answer may lie unread, and how many connections there are.

uvicorn bounds none of these: a client that sends a header a minute, or reads nothing, would hold
its place for ever, and a head without an end would fill the memory.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from multimodal_embedding_serving.settings import Settings

MOST_HEAD = 64 << 10
"""Bytes of a request's line and headers."""
LEAST_READ = 16 << 10
"""Bytes of an answer that its reader must have taken whenever somebody looks."""
LINGER = 5.0
"""Seconds in which a client may still send the body of a request that has been answered."""


class Connection(HttpToolsProtocol):
    """Use `bounded` to make one that knows its limits."""

    seconds: ClassVar[float] = 20.0
    """For a head, and between two looks at an answer that is read slowly."""
    most: ClassVar[int] = 1024

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._head_bytes = 0
        self._head_due: asyncio.TimerHandle | None = None
        self._look_due: asyncio.TimerHandle | None = None
        self._linger_due: asyncio.TimerHandle | None = None
        self._unread = 0
        self._running: RequestResponseCycle | None = None
        """With pipelined requests uvicorn knows the last one only."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._refuse(503, "too many connections")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        for timer in (self._head_due, self._look_due, self._linger_due):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._head_due is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()  # of the next request, or of what never becomes one
        super().data_received(data)
        if self._head_due is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD:
                self._refuse(431, "the request's head is too large")

    def on_headers_complete(self) -> None:
        self._end_head()
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()
        if self.cycle.more_body and not self.transport.is_closing():
            self._linger_due = self.loop.call_later(LINGER, self.transport.abort)

    def on_message_complete(self) -> None:
        if self._linger_due is not None:
            self._linger_due.cancel()
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_due = self.loop.call_later(self.seconds, self._late)

    def _end_head(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _late(self) -> None:
        self._refuse(408, "the request's head did not arrive in time")

    def _refuse(self, status: int, reason: str) -> None:
        self._end_head()
        if self.transport.is_closing():
            return
        body = reason.encode()
        head = b"content-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self.transport.close()
        self._watch()

    def _watch(self) -> None:
        """Look from time to time whether what has been written is read."""
        self._unread = self.transport.get_write_buffer_size()
        if self._unread and self._look_due is None:
            self._look_due = self.loop.call_later(self.seconds, self._look)

    def _look(self) -> None:
        self._look_due = None
        before = self._unread
        if before and self.transport.get_write_buffer_size() > max(0, before - LEAST_READ):
            self.transport.abort()
        else:
            self._watch()


def bounded(settings: Settings) -> type[Connection]:
    """The protocol that keeps to the settings."""

    class Bounded(Connection):
        seconds = settings.header_timeout
        most = settings.max_connections

    return Bounded
