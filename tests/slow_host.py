"""A web server that sends what it promises at 4 KB a second, above the least rate of a fetch."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PAUSE = 0.1
PART = bytes(400)
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 20000000\r\n\r\n"
)


class SlowHost:
    """Counts the connections that it is sending to."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.open = self.most = 0
        self.closed = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._drip, args=(client,), daemon=True).start()

    def close(self) -> None:
        self.closed.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _drip(self, client: socket.socket) -> None:
        with self._lock:
            self.open += 1
            self.most = max(self.most, self.open)
        with suppress(OSError), client:
            client.recv(65536)
            client.sendall(HEAD)
            while not self.closed.wait(PAUSE):
                client.sendall(PART)
        with self._lock:
            self.open -= 1


@contextmanager
def slow_host() -> Iterator[SlowHost]:
    host = SlowHost()
    threading.Thread(target=host.run, daemon=True).start()
    try:
        yield host
    finally:
        host.close()
