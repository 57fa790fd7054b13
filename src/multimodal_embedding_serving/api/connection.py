"""Limits on one client's connection: how long request headers may take and how large they may be,
how long a response may stay unread, and how many connections there are. When there are too many,
one that waits for its client makes way.

uvicorn limits none of these: a client that sends a header a minute, or never reads its response,
would hold its connection forever, and endless headers would fill the memory.

These limits need the parser's callbacks and the transport's buffer, which no public interface of
uvicorn offers: an ASGI application is called when the headers are complete, and never learns that
a response is not read. `Connection` therefore overrides parts of `HttpToolsProtocol`, which
uvicorn may change in any minor version. pyproject.toml allows only the minor versions that were
tested, and tests/api/test_uvicorn_interface.py fails when the overridden parts have changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from multimodal_embedding_serving.api.lingering import LingeringTransport
from multimodal_embedding_serving.api.request_parser import RequestParser
from multimodal_embedding_serving.api.waiting_connections import WaitingConnections
from multimodal_embedding_serving.settings import Settings

MAX_HEADER_BYTES = 64 << 10
"""The request line and all headers together."""
MIN_BYTES_READ = 16 << 10
"""What a client must have read of its response between two checks."""
TOO_MANY = "too many connections"
MAX_LINGER = 5.0
MIN_LINGER_BYTES = 5 << 20
MAX_LINGERS = 12
"""A client may go on to send the body of a request that was already answered, because few clients
read the response before that: at least so many bytes in MAX_LINGER seconds, so many times."""
MAX_LINGER_AT_SHUTDOWN = 0.5
"""MAX_LINGER when the server stops; a client that is idle sees the end at once."""


class Connection(HttpToolsProtocol):
    """Base of the class that `limit_connections` returns, which holds the limits."""

    header_timeout: ClassVar[float] = 20.0
    """Seconds for the request headers, and between two checks of a response that is read slowly."""
    max_connections: ClassVar[int] = 1024
    waiting: ClassVar[WaitingConnections[Connection]] = WaitingConnections()

    @staticmethod
    def is_draining() -> bool:
        """Whether the server is about to stop: then each response is the last of its connection."""
        return False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = RequestParser(self)  # type: ignore[assignment]  # stands in for it
        self._header_bytes = 0
        self._header_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._linger_bytes = self._lingers = 0
        self._unread_bytes = 0
        self._lingering: LingeringTransport
        self._running: RequestResponseCycle | None = None
        """With pipelined requests, `self.cycle` is the last one received, not the running one."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        lingering = LingeringTransport(transport, self.loop, MAX_LINGER)
        super().connection_made(lingering)  # type: ignore[arg-type]  # stands in for it
        self._lingering = lingering
        if len(self.connections) > self.max_connections:
            victim = self.waiting.next_to_close()
            if victim is None:
                self._reject(503, TOO_MANY)
                lingering.flush_and_close()
                return
            victim.make_way()
        self.waiting.add_idle(self, self._address)
        self._await_headers()

    def make_way(self) -> None:
        """Close the connection, which waits for its client, because there are too many."""
        idle = self.waiting.is_idle(self, self._address)
        self.waiting.discard(self, self._address)
        if idle:  # a response that no request asked for would be taken for the next one's
            self._cancel_header_timer()
        elif self._header_timer is not None:
            self._reject(503, TOO_MANY)
        else:
            self.transport.abort()
        self._lingering.flush_and_close()

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else ""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.waiting.discard(self, self._address)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        for timer in (self._header_timer, self._unread_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._lingering.closing:
            self._lingering.discard(len(data))  # it has its response
            return
        if self._header_timer is None and self._is_between_requests():
            self._await_headers()  # of the next request, or of bytes that never become one
        if self.waiting.is_idle(self, self._address):
            self.waiting.add_receiving(self, self._address)
        self._linger_bytes += len(data)
        super().data_received(data)
        if self._header_timer is not None:
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._reject(431, f"the request headers exceed {MAX_HEADER_BYTES} bytes")

    def _is_between_requests(self) -> bool:
        """Not in the rest of a body either, whose response is complete already."""
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def on_headers_complete(self) -> None:
        self._cancel_header_timer()
        super().on_headers_complete()
        if self.is_draining():
            self.cycle.keep_alive = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_unread()
        if self.transport.is_closing() or not self.cycle.response_complete:
            return  # a pipelined request is next
        if self.cycle.more_body:
            self._lingers = 0
            self._linger()
        else:
            self.waiting.add_idle(self, self._address)

    def _linger(self) -> None:
        self._linger_bytes = 0
        self._linger_timer = self.loop.call_later(MAX_LINGER, self._check_linger)

    def _check_linger(self) -> None:
        self._lingers += 1
        if self._linger_bytes < MIN_LINGER_BYTES or self._lingers == MAX_LINGERS:
            self.transport.abort()
        else:
            self._linger()

    def on_message_complete(self) -> None:
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        super().on_message_complete()
        self.cycle.more_body = False  # uvicorn leaves it if the response was complete before
        if self.cycle.response_complete:
            self.waiting.add_idle(self, self._address)
        else:
            self.waiting.discard(self, self._address)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_unread()

    def shutdown(self) -> None:
        """Respond to a client that has connected and not yet sent its request; close idle ones."""
        self._lingering.linger = MAX_LINGER_AT_SHUTDOWN
        if self._header_timer is not None and (self.cycle is None or self._header_bytes):
            self._reject(503, "the server is shutting down")
        else:
            super().shutdown()

    def _await_headers(self) -> None:
        self._header_bytes = 0
        self._header_timer = self.loop.call_later(self.header_timeout, self._time_out_headers)

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _time_out_headers(self) -> None:
        self._reject(408, f"the request headers took longer than {self.header_timeout:g} s")

    def _reject(self, status: int, reason: str) -> None:
        self._cancel_header_timer()
        if self.transport.is_closing():
            return
        body = reason.encode()
        headers = b"content-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + headers % len(body) + body)
        self._lingering.max_bytes = MAX_HEADER_BYTES
        self.transport.close()
        self._watch_unread()

    def _watch_unread(self) -> None:
        """Check at intervals that the client reads what was written."""
        self._unread_bytes = self.transport.get_write_buffer_size()
        if self._unread_bytes and self._unread_timer is None:
            self._unread_timer = self.loop.call_later(self.header_timeout, self._check_unread)

    def _check_unread(self) -> None:
        self._unread_timer = None
        before = self._unread_bytes
        if before and self.transport.get_write_buffer_size() > max(0, before - MIN_BYTES_READ):
            self.transport.abort()
        else:
            self._watch_unread()


def limit_connections(
    settings: Settings, draining: Callable[[], bool] = lambda: False
) -> type[Connection]:
    """The protocol class for uvicorn that enforces the limits of the settings."""

    class LimitedConnection(Connection):
        header_timeout = settings.header_timeout
        max_connections = settings.max_connections
        is_draining = staticmethod(draining)
        waiting = WaitingConnections()

    return LimitedConnection
