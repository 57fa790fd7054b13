"""Closing connections so that no client sees a reset.

A socket that is closed while the client still sends, or before it was accepted, is reset by the
system: the client loses even a response that was already written to it. So a connection is closed
for writing first and read until the client closes it too; and before the server stops listening, it
accepts whoever has connected, while nobody else can.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import select
import socket
import struct
from collections.abc import Iterable
from typing import Any

MAX_LINGER_BYTES = 1 << 26
"""As large as a body may be by default: one that is rejected by its size is sent nevertheless."""
SO_ATTACH_FILTER = 26
"""Of Linux; the socket module does not name it."""
FLAGS_BYTE, SYN, ACK = 13, 0x02, 0x10
"""Of a TCP header."""
DROP_NEW = (
    (0x30, 0, 0, FLAGS_BYTE),  # load the flags,
    (0x54, 0, 0, SYN | ACK),  # keep these two of them;
    (0x15, 0, 1, SYN),  # where only SYN is set,
    (0x06, 0, 0, 0),  # drop the packet,
    (0x06, 0, 0, 0xFFFFFFFF),  # else let it pass
)
"""A program of the classic packet filter: (operation, jump if true, jump if false, operand)."""


class LingeringTransport:
    """A connection's transport whose `close` lets the client read everything first."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, linger: float
    ) -> None:
        """`linger`: seconds in which the client may still send or close."""
        self._transport, self._loop, self.linger = transport, loop, linger
        self.closing = False
        self.max_bytes = MAX_LINGER_BYTES
        """What the client may still send."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.closing or self._transport.is_closing()

    def close(self) -> None:
        """Close for writing, and completely when the client closes or `linger` seconds are over."""
        if self.is_closing():
            return
        self.closing = True
        if not self._transport.can_write_eof():  # TLS
            self._transport.close()
            return
        with contextlib.suppress(OSError, RuntimeError):  # the client has gone
            self._transport.write_eof()
            self._transport.resume_reading()
        self._loop.call_later(self.linger, self._end)

    def flush_and_close(self) -> None:
        """Close without waiting for the client, which may be one of too many."""
        self.closing = True
        self._transport.close()

    def discard(self, size: int) -> None:
        """Note bytes that were received since `close`; a client that sends without end is reset."""
        self.max_bytes -= size
        if self.max_bytes < 0:
            self._transport.abort()

    def _end(self) -> None:
        if self._transport.get_write_buffer_size():  # the time for reading a response limits it
            self._loop.call_later(self.linger, self._end)
        else:
            self._transport.abort()


class Listeners:
    """The sockets on which a server listens."""

    def __init__(self, sockets: Iterable[Any]) -> None:
        # uvloop's own objects have no options to set.
        self._sockets = [socket.socket(fileno=os.dup(each.fileno())) for each in sockets]

    def ignore_new(self) -> None:
        """Ignore every new connection; those that are being made or wait are still accepted.

        Their clients try again, and are refused once the server no longer listens. Does nothing
        where the system has no such filter.
        """
        program = b"".join(struct.pack("HBBI", *each) for each in DROP_NEW)
        buffer = ctypes.create_string_buffer(program)
        attached = struct.pack("HP", len(DROP_NEW), ctypes.addressof(buffer))
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, attached)

    def has_waiting(self) -> bool:
        """Whether a connection waits to be accepted."""
        poll = select.poll()  # select takes no descriptor above 1023
        for each in self._sockets:
            poll.register(each, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        for each in self._sockets:
            each.close()
