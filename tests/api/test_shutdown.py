"""SIGTERM while clients connect: a response, or a refusal to connect, but never a reset."""

from __future__ import annotations

import http.client
import json
import select
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2

from tests.api.fakes import FakeServing, Start
from tests.conftest import Figure
from tests.fakes import PATIENCE
from tests.media.processes import eventually
from tests.serving import serving

BODY = json.dumps({"input": {"type": "text", "text": "a"}})
HEADERS = {"content-type": "application/json"}
COMMAND = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]
REFUSED, ENDED = "refused to connect", "ended while idle"


class Clients:
    """Threads that send requests to a server until it refuses to be connected to."""

    def __init__(self, port: int, count: int) -> None:
        self.port, self.outcomes, self.lock = port, Counter[str](), threading.Lock()
        self.started = threading.Barrier(count + 1)
        kinds = (self.connects, self.keeps, self.hesitates)
        self.threads = [
            threading.Thread(target=self.run, args=(kinds[number % 3],)) for number in range(count)
        ]
        for thread in self.threads:
            thread.start()
        self.started.wait(PATIENCE)

    def run(self, ask: Callable[[], None]) -> None:
        self.started.wait(PATIENCE)
        while True:
            try:
                ask()
            except ConnectionRefusedError:
                return self.count(REFUSED)
            except (OSError, http.client.HTTPException) as error:
                return self.count(type(error).__name__)

    def count(self, outcome: str) -> None:
        with self.lock:
            self.outcomes[outcome] += 1

    def ask(self, connection: http.client.HTTPConnection) -> bool:
        """Whether the connection may be used again."""
        connection.request("POST", "/embeddings", BODY, HEADERS)
        response = connection.getresponse()
        response.read()
        self.count(str(response.status))
        return not response.will_close

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.connect()
        return connection

    def connects(self) -> None:
        connection = self.connect()
        self.ask(connection)
        connection.close()

    def keeps(self) -> None:
        """As a pool does: a connection that has ended while it was idle is not used again."""
        connection = self.connect()
        try:
            while self.ask(connection):
                if select.select([connection.sock], [], [], 0)[0]:
                    return self.count(ENDED)
        except http.client.RemoteDisconnected:  # ended just when the request was sent
            self.count(ENDED)
        finally:
            connection.close()

    def hesitates(self) -> None:
        """Connects, and sends its request a moment later."""
        connection = self.connect()
        threading.Event().wait(0.02)
        self.ask(connection)
        connection.close()

    def join(self) -> Counter[str]:
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        return self.outcomes


def test_clients_that_connect_during_sigterm_see_no_reset(figure: Figure) -> None:
    with serving(COMMAND) as running:
        clients = Clients(int(running.url.rpartition(":")[2]), 60)
        threading.Event().wait(1.0)
        assert running.stop() == 0
        outcomes = clients.join()
    assert outcomes.keys() <= {"200", "503", ENDED, REFUSED}, outcomes
    assert outcomes["200"] > 60
    assert outcomes["503"]
    assert outcomes[REFUSED] == 60
    figure(f"SIGTERM under 60 connecting clients: {dict(outcomes)}, 0 resets")


def test_a_client_that_waits_to_be_accepted_gets_a_503(start: Start) -> None:
    """The loop is held, so that connections pile up in the system's queue."""
    stand: FakeServing = start()
    held, go = threading.Event(), threading.Event()
    server = stand.running.server

    def hold() -> None:
        held.set()
        go.wait(PATIENCE)

    eventually(lambda: server.started)
    loop = server.servers[0].get_loop()
    loop.call_soon_threadsafe(hold)
    held.wait(PATIENCE)
    connections = []
    for number in range(40):
        connection = socket.create_connection(("127.0.0.1", stand.running.port), timeout=PATIENCE)
        if number % 2:
            connection.sendall(b"GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n")
        connections.append(connection)
    server.handle_exit(15, None)
    go.set()
    for connection in connections:
        assert received(connection).startswith(b"HTTP/1.1 503 ")
    stand.running.join()


def test_idle_connections_end_without_a_reset(start: Start) -> None:
    stand: FakeServing = start()
    connections = []
    for _ in range(10):
        connection = socket.create_connection(("127.0.0.1", stand.running.port), timeout=PATIENCE)
        connection.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert json.loads(response.read()) == {"status": "alive"}
        connections.append(connection)
    stand.running.server.handle_exit(15, None)
    for connection in connections:
        assert received(connection) == b""  # and no ConnectionResetError
    stand.running.join()


def received(connection: socket.socket) -> bytes:
    """All that comes until the server closes; raises ConnectionResetError at a reset."""
    data = b""
    while part := connection.recv(65536):
        data += part
    connection.close()
    return data


def test_a_response_that_precedes_the_body_survives_it(start: Start) -> None:
    """The body is still being sent when the response is complete and the connection closes."""
    stand: FakeServing = start(max_body_mb=1)
    connection = socket.create_connection(("127.0.0.1", stand.running.port), timeout=PATIENCE)
    size = 8 << 20
    head = b"POST /embeddings HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
    connection.sendall(head + b"content-length: %d\r\n\r\n" % size)
    connection.sendall(bytes(size))
    assert received(connection).startswith(b"HTTP/1.1 413 ")


def test_a_request_that_is_not_done_in_time_is_a_503(start: Start) -> None:
    """It is canceled when EMBEDDING_DRAIN_SEC is over, and its client learns why."""
    stand: FakeServing = start(drain=0.1)
    graph = stand.graphs["text"]
    graph.hold()
    with ThreadPoolExecutor(1) as clients:
        url = f"{stand.url}/embeddings"
        body = {"input": {"type": "text", "text": "a"}}
        client = clients.submit(httpx2.post, url, json=body, timeout=PATIENCE)
        graph.wait_for_call()
        stand.running.server.handle_exit(15, None)
        response = client.result()
    graph.release()
    stand.running.join()
    assert response.status_code == 503
    assert "shutting down" in response.json()["detail"]
