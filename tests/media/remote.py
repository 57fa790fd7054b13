"""A scripted HTTP server on a loopback socket, and a resolver with a table of answers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field


@dataclass
class Remote:
    """Sends the bytes stored for each path as they are; records the requests."""

    port: int
    answers: dict[str, list[bytes]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    stay_open: bool = False
    """Keep the connection after the last bytes, as a server that hangs does."""

    def serve(self, path: str, *parts: bytes) -> None:
        self.answers[path] = list(parts)

    def ok(self, path: str, body: bytes, *headers: str) -> None:
        self.serve(path, response(200, body, *headers))

    def redirect(self, path: str, location: str, status: int = 302) -> None:
        self.serve(path, response(status, b"moved", f"Location: {location}"))


def response(status: int, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} Reason", f"Content-Length: {len(body)}", "Connection: close"]
    return "\r\n".join([*head, *headers, "", ""]).encode("latin-1") + body


@contextlib.asynccontextmanager
async def remote(tls: ssl.SSLContext | None = None) -> AsyncIterator[Remote]:
    """A server on a free port of 127.0.0.1."""
    shown = Remote(0)
    done = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            path = head[0].split(" ")[1]
            pairs = (line.partition(": ") for line in head[1:] if line)
            shown.requests.append((path, {name.lower(): value for name, _, value in pairs}))
            for part in shown.answers.get(path, [response(404, b"no")]):
                writer.write(part)
                await writer.drain()
            if shown.stay_open:
                await done.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    shown.port = server.sockets[0].getsockname()[1]
    try:
        yield shown
    finally:
        done.set()
        server.close()


class Names:
    """A resolver from a table; each name gives its next answer, the last one for ever."""

    def __init__(self, **table: str | list[str]) -> None:
        self._table = {
            name.replace("_", "."): [[entry] if isinstance(entry, str) else entry]
            for name, entry in table.items()
        }
        self.lookups: list[str] = []

    def then(self, name: str, *addresses: str) -> Names:
        """Another answer for a name, after those it has."""
        self._table.setdefault(name, []).append(list(addresses))
        return self

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.lookups.append(host)
        answers = self._table.get(host)
        if not answers:
            raise OSError("no such host")
        return answers.pop(0) if len(answers) > 1 else answers[0]
