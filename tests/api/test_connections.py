"""Clients that are slow, half gone, endless or many: none holds a place or memory for ever."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from threading import Event

import httpx2
import pytest

from multimodal_embedding_serving.api.connection import MAX_HEADER_BYTES
from tests.api.fakes import FakeServing, Start
from tests.fakes import PATIENCE
from tests.media.processes import eventually

Connect = Callable[..., socket.socket]

TEXT = {"input": {"type": "text", "text": "a"}}
HEAD = b"POST /embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
SOON = 0.15
"""Seconds for a head in the tests that let it pass."""
PAUSE = Event()
"""Never set: to wait without deciding anything."""


@pytest.fixture
def connect() -> Iterator[Connect]:
    with ExitStack() as stack:

        def make(serving: FakeServing, data: bytes = b"") -> socket.socket:
            address = ("127.0.0.1", serving.running.port)
            connection = stack.enter_context(socket.create_connection(address, timeout=PATIENCE))
            connection.sendall(data)
            return connection

        yield make


def answer(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    data = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            data += part
    return data


def connections(serving: FakeServing) -> int:
    return len(serving.running.server.server_state.connections)


def works(serving: FakeServing) -> bool:
    return httpx2.post(f"{serving.url}/embeddings", json=TEXT).status_code == 200


@pytest.mark.parametrize(
    "sent", [b"", b"POST /embeddings HTTP/1.1\r\nhost: localhost\r\nx-a: ", b"\r\n" * 9]
)
def test_a_head_that_does_not_arrive_is_a_408_and_the_place_is_free(
    start: Start, connect: Connect, sent: bytes
) -> None:
    serving = start(header_timeout=SOON)
    waiting = [connect(serving, sent) for _ in range(20)]
    assert works(serving)
    for connection in waiting:
        assert answer(connection).startswith(b"HTTP/1.1 408 ")
    assert eventually(lambda: connections(serving) <= 1)


def test_a_head_that_trickles_is_cut_off_all_the_same(start: Start, connect: Connect) -> None:
    """Each byte would restart an idle timer."""
    serving = start(header_timeout=SOON)
    connection = connect(serving, b"GET /live HTTP/1.1\r\n")
    with suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(int(PATIENCE / 0.02)):
            connection.sendall(b"x: y\r\n")
            PAUSE.wait(0.02)
            if not connections(serving):
                break
    assert eventually(lambda: connections(serving) == 0)


def test_line_ends_between_requests_hold_no_place(start: Start, connect: Connect) -> None:
    serving = start(header_timeout=SOON)
    connection = connect(serving, b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    with suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(int(PATIENCE / 0.02)):
            connection.sendall(b"\r\n")
            PAUSE.wait(0.02)
            if not connections(serving):
                break
    assert eventually(lambda: connections(serving) == 0)


@pytest.mark.parametrize("line", [b"x-filler: " + b"y" * 1000 + b"\r\n", b"y" * 1000])
def test_a_head_without_an_end_is_a_431(start: Start, connect: Connect, line: bytes) -> None:
    serving = start()
    connection = connect(serving, b"GET /live HTTP/1.1\r\nx: ")
    sent = 0
    with suppress(BrokenPipeError, ConnectionResetError):
        while sent < 100 * MAX_HEADER_BYTES:
            connection.sendall(line)
            sent += len(line)
    assert sent < 100 * MAX_HEADER_BYTES, "it was read to the end"
    assert works(serving)


def test_large_heads_within_the_limit_are_served(start: Start) -> None:
    headers = {f"x-{number}": "y" * 1000 for number in range(50)}
    assert httpx2.get(f"{start().url}/live", headers=headers).status_code == 200


def test_more_connections_than_allowed_are_a_503_if_all_are_at_work(
    start: Start, connect: Connect
) -> None:
    serving = start(max_connections=8)
    serving.graphs["text"].hold()
    body = b'{"input": {"type": "text", "text": "a"}}'
    busy = [connect(serving, HEAD % len(body) + body) for _ in range(8)]
    assert eventually(lambda: serving.running.service.active == 8)
    assert answer(connect(serving)).startswith(b"HTTP/1.1 503 ")
    for connection in busy:
        connection.close()
    assert eventually(lambda: connections(serving) == 0)
    serving.graphs["text"].release()
    assert works(serving)


def test_a_body_that_stops_halfway_is_a_408_and_others_are_served(
    start: Start, connect: Connect
) -> None:
    serving = start(request_timeout=1.0)
    slow = [connect(serving, HEAD % 10**6 + b'{"input":') for _ in range(30)]
    assert works(serving)
    for connection in slow:
        assert answer_head(connection).startswith(b"HTTP/1.1 408 ")
    assert eventually(lambda: serving.running.service.memory_quota.used == 0)


def answer_head(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    return data


def test_a_client_that_closes_its_half_is_taken_for_gone(start: Start, connect: Connect) -> None:
    """A client that has gone altogether looks the same, and its work is to be dropped."""
    serving = start()
    body = b'{"input": {"type": "text", "text": "a"}}'
    serving.graphs["text"].hold()
    connection = connect(serving, HEAD % len(body) + body)
    assert eventually(lambda: serving.running.service.active == 1)
    connection.shutdown(socket.SHUT_WR)
    assert answer(connection) == b""
    assert eventually(lambda: serving.running.service.active == 0)
    assert connections(serving) == 0
    serving.graphs["text"].release()
    assert works(serving)


def test_a_client_that_goes_in_the_middle_of_its_body_leaves_nothing(
    start: Start, connect: Connect
) -> None:
    serving = start()
    for _ in range(20):
        connect(serving, HEAD % 10**6 + b"x" * 10_000).close()
    assert eventually(lambda: connections(serving) == 0)
    assert eventually(lambda: serving.running.service.active == 0)
    assert serving.running.service.memory_quota.used == 0


def test_answers_that_nobody_reads_are_given_up(start: Start) -> None:
    serving = start(header_timeout=SOON)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with connection:
        connection.settimeout(PATIENCE)
        connection.connect(("127.0.0.1", serving.running.port))
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 600)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        assert eventually(lambda: connections(serving) == 0)
        assert eventually(lambda: serving.running.service.active == 0)
    assert works(serving)


def test_a_client_that_reads_after_sending_a_rejected_body_sees_the_response(
    start: Start, connect: Connect
) -> None:
    """And the connection serves its next request."""
    serving = start(max_pending_mb=2)
    size = 20 << 20
    connection = connect(serving, HEAD % size + b"x" * size)
    head, _, body = answer_head(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 413 ")
    length = int(head.lower().partition(b"content-length: ")[2].split()[0])
    while len(body) < length:
        body += connection.recv(65536)
    assert b"EMBEDDING_MAX_PENDING_MB" in body
    connection.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert answer_head(connection).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_goes_on_after_its_refusal_is_cut_off(
    start: Start, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multimodal_embedding_serving.api.connection.MAX_LINGER", SOON)
    serving = start(max_body_mb=1)
    connection = connect(serving, HEAD % (2 * 10**9))
    assert answer_head(connection).startswith(b"HTTP/1.1 413 ")
    with suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(int(PATIENCE / 0.02)):
            connection.sendall(b"x" * 100)
            PAUSE.wait(0.02)
            if not connections(serving):
                break
    assert eventually(lambda: connections(serving) == 0)
