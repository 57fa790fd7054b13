"""Messages between the service and a decoder's process: JSON on a socket, some with an open file.

What the process says is not trusted: a message is small, plain JSON, and no file is taken from it.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

HEADER = struct.Struct("<I")
LARGEST = 1 << 16
"""Bytes of a message that is not trusted."""

Message = dict[str, Any]


class Channel:
    """One end of a socket pair. Times are the seconds that a whole message may take; None: any.

    Raises TimeoutError, and ConnectionError where the other end is gone or talks nonsense.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def send(
        self, message: Mapping[str, Any], *, file: int | None = None, seconds: float | None = None
    ) -> None:
        body = json.dumps(message).encode()
        data = memoryview(HEADER.pack(len(body)) + body)
        self._socket.settimeout(None if seconds is None else max(0.001, seconds))
        if file is not None:
            data = data[socket.send_fds(self._socket, [data], [file]) :]
        self._socket.sendall(data)

    def receive(self, seconds: float | None = None) -> Message:
        """A message of an end that is not trusted."""
        end = None if seconds is None else time.monotonic() + seconds
        (size,) = HEADER.unpack(self._read(HEADER.size, end))
        if size > LARGEST:
            raise ConnectionError("the message is too long")
        return _parsed(self._read(size, end))

    def receive_with_file(self) -> tuple[Message, int | None]:
        """A message of an end that is trusted, and the file that came with it."""
        data, files, _, _ = socket.recv_fds(self._socket, HEADER.size, 1)
        (size,) = HEADER.unpack(data + self._read(HEADER.size - len(data), None, begun=bool(data)))
        return _parsed(self._read(size, None)), files[0] if files else None

    def close(self) -> None:
        self._socket.close()

    def _read(self, size: int, end: float | None, *, begun: bool = True) -> bytes:
        data = bytearray()
        while begun and len(data) < size:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            part = self._socket.recv(min(size - len(data), 1 << 20))
            begun = bool(part)
            data += part
        if not begun:
            raise ConnectionError("the other end is gone")
        return bytes(data)


def _parsed(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise ConnectionError("the message is no object")
    return message
