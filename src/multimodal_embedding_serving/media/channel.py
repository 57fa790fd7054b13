"""Messages between the service and a decoder process: JSON on a socket, some with an open file.

The service does not trust the process: its messages are small, plain JSON, and never carry a file.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

HEADER = struct.Struct("<I")
MAX_MESSAGE_BYTES = 1 << 16
"""Of a message from the process."""

Message = dict[str, Any]


class Channel:
    """One end of a socket pair. `seconds` limits the transfer of a whole message; None: no limit.

    Raises TimeoutError, and ConnectionError if the peer is gone or its message is malformed.
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
        """A message from a peer that is not trusted."""
        end = None if seconds is None else time.monotonic() + seconds
        (size,) = HEADER.unpack(self._read(HEADER.size, end))
        if size > MAX_MESSAGE_BYTES:
            raise ConnectionError(
                f"the message has {size:,} bytes; the limit is {MAX_MESSAGE_BYTES:,}"
            )
        return _parse(self._read(size, end))

    def receive_with_file(self) -> tuple[Message, int | None]:
        """A message from a trusted peer, and the file that came with it."""
        data, files, _, _ = socket.recv_fds(self._socket, HEADER.size, 1)
        rest = self._read(HEADER.size - len(data), None, connected=bool(data))
        (size,) = HEADER.unpack(data + rest)
        return _parse(self._read(size, None)), files[0] if files else None

    def close(self) -> None:
        self._socket.close()

    def _read(self, size: int, end: float | None, *, connected: bool = True) -> bytes:
        data = bytearray()
        while connected and len(data) < size:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            part = self._socket.recv(min(size - len(data), 1 << 20))
            connected = bool(part)
            data += part
        if not connected:
            raise ConnectionError("the peer closed the connection")
        return bytes(data)


def _parse(body: bytes) -> Message:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise ConnectionError("the message is not a JSON object")
    return message
