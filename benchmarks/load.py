"""Load over HTTP/1.1 from one thread, at a cost that is measured too.

The client shares the cores with the server. So requests are rendered before the clock starts,
connections are kept, and an answer is read by its Content-Length and not parsed, but for the first
of each run. Latency counts from when a request was due, which in a closed loop is when it was sent.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.processes import PATIENCE, Server, busy_seconds, cpu_seconds

EMBEDDINGS = "/v1/embeddings"


class Refused(Exception):
    """The server has answered with something else than 200, or with no sense."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request:
    """A rendered request and how many items it carries."""

    raw: bytes
    items: int


@dataclass
class Trace:
    """What a run of requests took. Latencies in seconds, in order of their ends."""

    latencies: list[float] = field(default_factory=list)
    items: int = 0
    seconds: float = 0.0
    """From the first request to the last answer."""
    server_cpu: float = 0.0
    client_cpu: float = 0.0
    other_cpu: float = 0.0
    """CPU seconds of everything else on the machine: noise."""


def render(path: str, body: Any, items: int) -> Request:
    coded = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return Request(f"{head}Content-Length: {len(coded)}\r\n\r\n".encode() + coded, items)


def text_requests(texts: Sequence[str], items: int = 1) -> list[Request]:
    """OpenAI's request, answered in base64 as its client asks."""
    groups = [list(texts[at : at + items]) for at in range(0, len(texts) - items + 1, items)]
    return [
        render(EMBEDDINGS, {"model": "it", "input": each, "encoding_format": "base64"}, items)
        for each in groups
    ]


def image_requests(pictures: Sequence[Path], items: int = 1) -> list[Request]:
    """As data URIs, which this service and infinity both take."""
    uris = [
        "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
        for path in pictures
    ]
    asked = {"model": "it", "modality": "image", "encoding_format": "base64"}
    return [
        render(EMBEDDINGS, {**asked, "input": uris[at : at + items]}, items)
        for at in range(0, len(uris) - items + 1, items)
    ]


class Connection:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, raw: bytes) -> bytes:
        """The answer's body. Raises Refused, OSError.

        A kept connection that the server has closed meanwhile is made anew, as every client does.
        """
        kept = self._streams is not None
        try:
            return await self._post(raw)
        except ConnectionError:
            self.close()
            if not kept:
                raise
        return await self._post(raw)

    async def _post(self, raw: bytes) -> bytes:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        reader, writer = self._streams
        try:
            writer.write(raw)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            status, body = int(head[9:12]), await reader.readexactly(content_length(head))
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the server closed the connection") from error
        if b"connection: close" in head.lower():
            self.close()
        if status != 200:
            raise Refused(f"{status}: {body[:300].decode('utf-8', 'replace')}", status)
        return body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def content_length(head: bytes) -> int:
    """Raises Refused where the head names no length."""
    _, found, rest = head.lower().partition(b"content-length:")
    if not found:
        raise Refused("the answer has no Content-Length")
    return int(rest.partition(b"\r\n")[0])


async def closed_loop(
    server: Server, requests: Sequence[Request], concurrency: int, seconds: float
) -> Trace:
    """So many callers, each of which asks again once answered, until the time is over.

    What is then under way is waited for and counted. Each caller asks once at least.
    """
    numbers, trace = itertools.count(), Trace()
    until = time.perf_counter() + seconds

    async def caller(connection: Connection) -> None:
        first = True
        while first or time.perf_counter() < until:
            first = False
            request = requests[next(numbers) % len(requests)]
            begun = time.perf_counter()
            await connection.post(request.raw)
            trace.latencies.append(time.perf_counter() - begun)
            trace.items += request.items

    connections = [Connection(server.port) for _ in range(concurrency)]
    await _measured(server, trace, lambda: _all(map(caller, connections)))
    for each in connections:
        each.close()
    return trace


async def open_loop(
    server: Server, requests: Sequence[Request], rate: float, seconds: float
) -> Trace:
    """`rate` requests a second by the clock, each on a connection of its own while others wait."""
    trace, idle = Trace(), [Connection(server.port)]

    async def ask(request: Request, due: float) -> None:
        connection = idle.pop() if idle else Connection(server.port)
        await connection.post(request.raw)
        trace.latencies.append(time.perf_counter() - due)
        trace.items += request.items
        idle.append(connection)

    async def run() -> None:
        begun = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(round(rate * seconds)):
                due = begun + number / rate
                await asyncio.sleep(due - time.perf_counter())
                group.create_task(ask(requests[number % len(requests)], due))

    await _measured(server, trace, run)
    for each in idle:
        each.close()
    return trace


async def _all(callers: Any) -> None:
    async with asyncio.TaskGroup() as group:
        for each in callers:
            group.create_task(each)


async def _measured(server: Server, trace: Trace, run: Callable[[], Awaitable[None]]) -> None:
    server.check()
    ours, theirs, all_of_it = time.process_time(), cpu_seconds(server.pid), busy_seconds()
    begun = time.perf_counter()
    await run()
    trace.seconds = time.perf_counter() - begun
    trace.client_cpu = time.process_time() - ours
    trace.server_cpu = cpu_seconds(server.pid) - theirs
    rest = busy_seconds() - all_of_it - trace.client_cpu - trace.server_cpu
    trace.other_cpu = max(0.0, rest)


async def first_answer(server: Server, request: Request) -> float:
    """Seconds from the start of the process to its first vector; asked every 20 ms while it can't
    be reached or answers with 5xx.

    Raises ServerEnded, TimeoutError, or Refused.
    """
    async with asyncio.timeout(PATIENCE):
        while True:
            server.check()
            connection = Connection(server.port)
            try:
                answer = await connection.post(request.raw)
            except (OSError, Refused) as error:
                if isinstance(error, Refused) and error.status < 500:
                    raise
                await asyncio.sleep(0.02)
                continue
            finally:
                connection.close()
            taken = time.perf_counter() - server.started
            vectors(answer)
            return taken


async def ask_once(server: Server, request: Request) -> bytes:
    connection = Connection(server.port)
    try:
        return await connection.post(request.raw)
    finally:
        connection.close()


def vectors(answer: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """float32 [n, dimension] of an answer in base64."""
    rows = [base64.b64decode(each["embedding"]) for each in json.loads(answer)["data"]]
    found = np.stack([np.frombuffer(row, "<f4") for row in rows])
    if not np.isfinite(found).all():
        raise Refused("the vectors are not finite numbers")
    return found
