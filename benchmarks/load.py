"""Load over HTTP/1.1 from one thread, whose own CPU time is measured, too.

The client shares the cores with the server. So requests are rendered before the clock starts,
connections are kept alive, and responses are read by their Content-Length but not parsed. Latency
counts from when a request was due, which in a closed loop is when it was sent.
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

from benchmarks.processes import TIMEOUT, Server, busy_seconds, cpu_seconds

EMBEDDINGS = "/v1/embeddings"


class BadResponse(Exception):
    """The server responded with a status other than 200, or with something that can't be read."""

    def __init__(self, message: str, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request:
    """A rendered request and the number of its items."""

    raw: bytes
    items: int


@dataclass
class Trace:
    """The measurements of a run of requests. Latencies are in seconds, in order of completion."""

    latencies: list[float] = field(default_factory=list)
    items: int = 0
    seconds: float = 0.0
    """From the first request to the last response."""
    server_cpu: float = 0.0
    client_cpu: float = 0.0
    other_cpu: float = 0.0
    """CPU seconds of everything else on the machine."""


def render(path: str, body: Any, items: int) -> Request:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return Request(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content, items)


def text_requests(texts: Sequence[str], items: int = 1) -> list[Request]:
    """OpenAI's requests, with base64 vectors, as its client sends them."""
    groups = [list(texts[at : at + items]) for at in range(0, len(texts) - items + 1, items)]
    return [
        render(EMBEDDINGS, {"model": "it", "input": each, "encoding_format": "base64"}, items)
        for each in groups
    ]


def image_requests(paths: Sequence[Path], items: int = 1) -> list[Request]:
    """Images as data URIs, which this service and infinity both accept."""
    uris = [
        "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode() for path in paths
    ]
    options = {"model": "it", "modality": "image", "encoding_format": "base64"}
    return [
        render(EMBEDDINGS, {**options, "input": uris[at : at + items]}, items)
        for at in range(0, len(uris) - items + 1, items)
    ]


class Connection:
    """A connection that is kept alive."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, raw: bytes) -> bytes:
        """The response's body. Raises BadResponse, OSError.

        If the server has closed a kept-alive connection in the meantime, open a new one, as every
        client does.
        """
        reused = self._streams is not None
        try:
            return await self._post(raw)
        except ConnectionError:
            self.close()
            if not reused:
                raise
        return await self._post(raw)

    async def _post(self, raw: bytes) -> bytes:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 20)
        reader, writer = self._streams
        try:
            writer.write(raw)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), TIMEOUT)
            status, body = int(head[9:12]), await reader.readexactly(content_length(head))
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("the server closed the connection") from error
        if b"connection: close" in head.lower():
            self.close()
        if status != 200:
            raise BadResponse(f"{status}: {body[:300].decode('utf-8', 'replace')}", status)
        return body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def content_length(head: bytes) -> int:
    """Raises BadResponse if there is no Content-Length."""
    _, header, rest = head.lower().partition(b"content-length:")
    if not header:
        raise BadResponse("the response has no Content-Length")
    return int(rest.partition(b"\r\n")[0])


async def closed_loop(
    server: Server, requests: Sequence[Request], concurrency: int, seconds: float
) -> Trace:
    """`concurrency` callers, each of which sends its next request when the last one is answered.

    Requests in flight when the time is over are awaited and counted. Each caller sends at least
    one.
    """
    numbers, trace = itertools.count(), Trace()
    until = time.perf_counter() + seconds

    async def caller(connection: Connection) -> None:
        first = True
        while first or time.perf_counter() < until:
            first = False
            request = requests[next(numbers) % len(requests)]
            started = time.perf_counter()
            await connection.post(request.raw)
            trace.latencies.append(time.perf_counter() - started)
            trace.items += request.items

    connections = [Connection(server.port) for _ in range(concurrency)]
    await _measured(server, trace, lambda: _all(map(caller, connections)))
    for each in connections:
        each.close()
    return trace


async def open_loop(
    server: Server, requests: Sequence[Request], rate: float, seconds: float
) -> Trace:
    """`rate` requests per second at fixed times, whether or not earlier ones are answered."""
    trace, idle = Trace(), [Connection(server.port)]

    async def ask(request: Request, due: float) -> None:
        connection = idle.pop() if idle else Connection(server.port)
        await connection.post(request.raw)
        trace.latencies.append(time.perf_counter() - due)
        trace.items += request.items
        idle.append(connection)

    async def run() -> None:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(round(rate * seconds)):
                due = started + number / rate
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
    client, process, machine = time.process_time(), cpu_seconds(server.pid), busy_seconds()
    started = time.perf_counter()
    await run()
    trace.seconds = time.perf_counter() - started
    trace.client_cpu = time.process_time() - client
    trace.server_cpu = cpu_seconds(server.pid) - process
    rest = busy_seconds() - machine - trace.client_cpu - trace.server_cpu
    trace.other_cpu = max(0.0, rest)


async def first_answer(server: Server, request: Request) -> float:
    """Seconds from the start of the process to its first vector; retries every 20 ms while the
    server can't be reached or responds with 5xx.

    Raises ServerEnded, TimeoutError, or BadResponse.
    """
    async with asyncio.timeout(TIMEOUT):
        while True:
            server.check()
            connection = Connection(server.port)
            try:
                answer = await connection.post(request.raw)
            except (OSError, BadResponse) as error:
                if isinstance(error, BadResponse) and error.status < 500:
                    raise
                await asyncio.sleep(0.02)
                continue
            finally:
                connection.close()
            elapsed = time.perf_counter() - server.started
            vectors(answer)
            return elapsed


async def ask_once(server: Server, request: Request) -> bytes:
    connection = Connection(server.port)
    try:
        return await connection.post(request.raw)
    finally:
        connection.close()


def vectors(answer: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """float32 [n, dimension] of a response in base64."""
    rows = [base64.b64decode(each["embedding"]) for each in json.loads(answer)["data"]]
    matrix = np.stack([np.frombuffer(row, "<f4") for row in rows])
    if not np.isfinite(matrix).all():
        raise BadResponse("the vectors are not finite")
    return matrix
