"""Greedy clients beside honest ones: the honest ones are served, and nothing is left held.

A client is an API key, or an address: those of 127.0.0.0/8 are all this machine's.
"""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import httpx2
import pytest

from multimodal_embedding_serving.api.connection import Connection
from tests.api.fakes import FakeServing, Start
from tests.fakes import PATIENCE
from tests.media.processes import eventually
from tests.media_files import write_video
from tests.slow_host import SlowHost, slow_host

TEXT = {"input": {"type": "text", "text": "a"}}
BOUNDS = {"items", "fetches", "videos", "memory"}
GREEDY, HONEST = "127.0.0.3", "127.0.0.2"

Dial = Callable[..., httpx2.Client]


@pytest.fixture
def slow() -> Iterator[SlowHost]:
    with slow_host() as host:
        yield host


@pytest.fixture
def dial() -> Iterator[Dial]:
    """Clients at addresses of their own."""
    with ExitStack() as stack:

        def make(serving: FakeServing, address: str = HONEST, key: str = "") -> httpx2.Client:
            client = httpx2.Client(
                base_url=serving.url,
                transport=httpx2.HTTPTransport(local_address=address),
                headers={"authorization": f"Bearer {key}"} if key else {},
                timeout=PATIENCE,
            )
            return stack.enter_context(client)

        yield make


@pytest.fixture
def background() -> Iterator[Callable[..., Future[Any]]]:
    """Calls that run beside the test; they end when their server does."""
    with ThreadPoolExecutor(64) as threads:
        yield threads.submit


def texts(*words: str) -> dict[str, Any]:
    return {"input": {"type": "text", "text": list(words)}}


def held(serving: FakeServing) -> dict[str, int]:
    """What /metrics says is held of each bound."""
    keys = serving.settings.api_keys
    headers = {"authorization": f"Bearer {keys[0]}"} if keys else {}
    page = httpx2.get(f"{serving.url}/metrics", headers=headers).text
    lines = [line for line in page.splitlines() if line.startswith("mmes_bound_held{")]
    figures = {line.split('"')[1]: int(float(line.split()[-1])) for line in lines}
    assert set(figures) == BOUNDS
    return figures


def nothing_is_held(serving: FakeServing) -> bool:
    return eventually(lambda: not any(held(serving).values()))


def assert_full(answer: httpx2.Response) -> None:
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def give_up(client: httpx2.Client, payload: Any) -> None:
    """A request whose client leaves before the response, or whose server ends."""
    with suppress(httpx2.TransportError):
        client.post("/embeddings", json=payload, timeout=0.5)


def send(serving: FakeServing, address: str, body: bytes, length: int) -> socket.socket:
    """A connection on which a request's body of `length` bytes has begun with `body`."""
    peer = ("127.0.0.1", serving.running.port)
    connection = socket.create_connection(peer, PATIENCE, (address, 0))
    head = f"POST /embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def readable(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return bool(connection.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(PATIENCE)


# ── fetches ──


def test_two_slow_videos_keep_nobody_from_being_served(
    start: Start, dial: Dial, slow: SlowHost
) -> None:
    serving = start(allowed_hosts=("127.0.0.1",), queue_limit=64)
    url = {"video_url": f"{slow.url}/v.mp4", "segment_config": {"num_frames": 0}}
    body = json.dumps({"input": {"type": "video_url", **url}}).encode()
    videos = [send(serving, GREEDY, body, len(body)) for _ in range(2)]
    assert eventually(lambda: slow.open == 2)
    for client in (dial(serving, HONEST), dial(serving, GREEDY)):
        for _ in range(20):
            assert client.post("/embeddings", json=TEXT).status_code == 200
    assert held(serving)["items"] == 0
    for each in videos:
        each.close()
    assert nothing_is_held(serving)


def test_one_client_fetches_at_most_half_at_a_time_and_the_rest_wait(
    start: Start, dial: Dial, slow: SlowHost
) -> None:
    serving = start(allowed_hosts=("127.0.0.1",), max_fetches=6)
    many = {"type": "image_url", "image_url": [f"{slow.url}/{n}.png" for n in range(2048)]}
    body = json.dumps({"input": many}).encode()
    lists = [send(serving, GREEDY, body, len(body)) for _ in range(3)]
    assert eventually(lambda: slow.open == 3)
    honest = dial(serving, HONEST)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{closed.getsockname()[1]}/a.png"
    for _ in range(10):
        assert honest.post("/embeddings", json=TEXT).status_code == 200
        # it was tried at once: nothing listens there
        payload = {"input": {"type": "image_url", "image_url": gone}}
        assert honest.post("/embeddings", json=payload).status_code == 424
    assert (slow.most, held(serving)["fetches"]) == (3, 3)
    for each in lists:
        each.close()
    assert nothing_is_held(serving)


# ── the queue ──


@pytest.mark.parametrize(
    "path",
    [
        "/embeddings",
        "/v1/embeddings",
        "/v2/embed",
        "/classify",
        "/score",
        "/v1/rerank",
        "/v2/rerank",
    ],
)
def test_a_greedy_key_gets_429_in_every_dialect_and_an_honest_one_is_served(
    start: Start, dial: Dial, background: Callable[..., Future[Any]], path: str
) -> None:
    serving = start(queue_limit=16, api_keys=("greedy", "honest"))
    graph = serving.graphs["text"]
    graph.hold()
    greedy, honest = dial(serving, key="greedy"), dial(serving, key="honest")
    full = background(greedy.post, "/embeddings", json=texts(*"abcdefghijklmn"))
    assert eventually(lambda: held(serving)["items"] == 14)
    compared = {"query": "o", "documents": list("pqrstuvw")}
    bodies = {
        "/embeddings": texts(*"opqrstuvw"),
        "/v1/embeddings": {"input": list("opqrstuvw")},
        "/v2/embed": {
            "texts": list("opqrstuvw"),
            "model": "clip-vit-b-32",
            "input_type": "search_document",
            "embedding_types": ["float"],
        },
        "/classify": {"input": list("opqrst"), "labels": list("uvw")},
        "/score": compared,
        "/v1/rerank": compared,
        "/v2/rerank": compared,
    }
    answer = greedy.post(path, json=bodies[path])
    assert_full(answer)
    body = answer.json()
    match path:
        case "/embeddings" | "/classify" | "/score":
            assert body["code"] == "queue_full"
        case "/v1/embeddings" | "/v1/rerank":
            assert body["error"]["code"] == "rate_limit_exceeded"
        case _:
            assert "EMBEDDING_QUEUE_LIMIT" in body["message"]
    waiting = [background(honest.post, "/embeddings", json=texts(*word)) for word in ("op", "q")]
    assert eventually(lambda: held(serving)["items"] == 17)
    graph.release()
    assert {each.result().status_code for each in (full, *waiting)} == {200}
    assert nothing_is_held(serving)


def test_without_keys_a_client_is_its_address(
    start: Start, dial: Dial, background: Callable[..., Future[Any]]
) -> None:
    serving = start(queue_limit=8)
    graph = serving.graphs["text"]
    graph.hold()
    first = background(dial(serving, GREEDY).post, "/embeddings", json=texts(*"abcdefgh"))
    assert eventually(lambda: held(serving)["items"] == 8)
    assert_full(dial(serving, GREEDY).post("/embeddings", json=TEXT))
    second = background(dial(serving, HONEST).post, "/embeddings", json=TEXT)
    assert eventually(lambda: held(serving)["items"] == 9)
    graph.release()
    assert {first.result().status_code, second.result().status_code} == {200}


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("127.0.0.1", "203.0.113.9", "203.0.113.9"),  # uvicorn's default trusts this peer
        ("127.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.2", "203.0.113.9", "127.0.0.2"),
    ],
)
def test_a_forwarded_address_counts_only_from_a_trusted_peer(
    start: Start, peer: str, forwarded: str, expected: str
) -> None:
    serving = start()
    head = f"POST /embeddings HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: {forwarded}\r\n"
    address = ("127.0.0.1", serving.running.port)
    with socket.create_connection(address, PATIENCE, (peer, 0)) as connection:
        connection.sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
        quota = serving.running.service.memory_quota
        assert eventually(lambda: list(quota._holdings.by_client) == [expected])


def test_a_client_with_many_small_requests_does_not_delay_anothers_few(
    start: Start, dial: Dial, background: Callable[..., Future[Any]]
) -> None:
    """Beyond eight items in progress they are bulk, while other clients are served."""
    serving = start()
    graph, engine = serving.graphs["text"], serving.running.service.engine
    assert engine is not None
    batcher = engine.towers["text"].batcher
    assert dial(serving, HONEST).post("/embeddings", json=TEXT).status_code == 200
    graph.hold()
    greedy = dial(serving, GREEDY)
    flood = [background(greedy.post, "/embeddings", json=texts(f"flood {n}")) for n in range(24)]
    assert eventually(lambda: held(serving)["items"] == 24)
    honest = background(dial(serving, HONEST).post, "/embeddings", json=texts("honest"))
    assert eventually(lambda: batcher.waiting + len(graph.batches[-1]) == 25)
    before = len(graph.batches)
    graph.release()
    assert {each.result().status_code for each in (*flood, honest)} == {200}
    next_batch = ["".join(map(chr, row)) for row in graph.batches[before]]
    assert "Dhonest" in next_batch
    assert len(next_batch) <= 9


# ── memory ──


def stall(serving: FakeServing, address: str, size: int) -> socket.socket:
    """A connection whose request body stops short of its end."""
    return send(serving, address, b"x" * size, size + 9)


def test_bodies_of_one_client_hold_half_of_the_memory(start: Start, dial: Dial) -> None:
    serving = start(max_pending_mb=4)
    quota = serving.running.service.memory_quota
    with ExitStack() as stack:
        bodies = [stack.enter_context(stall(serving, GREEDY, 600_000)) for _ in range(3)]
        assert eventually(lambda: quota.used == 1_800_000)
        # by its declared length, at once; and one that does not declare it, while it arrives
        declared = stack.enter_context(send(serving, GREEDY, b"x", 600_000))
        assert declared.recv(4096).startswith(b"HTTP/1.1 429 ")
        chunked = stack.enter_context(send_chunks(serving, GREEDY, 600_000))
        assert chunked.recv(4096).startswith(b"HTTP/1.1 429 ")
        assert quota.used == 1_800_000
        assert not any(map(readable, bodies))
        for _ in range(5):
            assert dial(serving, HONEST).post("/embeddings", json=TEXT).status_code == 200
    assert nothing_is_held(serving)


def send_chunks(serving: FakeServing, address: str, size: int) -> socket.socket:
    peer = ("127.0.0.1", serving.running.port)
    connection = socket.create_connection(peer, PATIENCE, (address, 0))
    head = b"POST /embeddings HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    connection.sendall(head + b"%x\r\n" % size + b"x" * size + b"\r\n")
    return connection


def test_greedy_bodies_make_way_when_all_memory_is_held(start: Start, dial: Dial) -> None:
    serving = start(max_pending_mb=4)
    quota = serving.running.service.memory_quota
    with ExitStack() as stack:
        greedy = [
            stack.enter_context(stall(serving, address, 690_000))
            for address in ("127.0.0.4", "127.0.0.5")
            for _ in range(3)
        ]
        assert eventually(lambda: quota.used == 6 * 690_000)
        large = json.dumps({"input": "x" * 200_000}).encode()
        answer = dial(serving, HONEST).post("/v1/embeddings", content=large)
        assert answer.status_code == 200
        assert eventually(lambda: any(map(readable, greedy)))
        ended = [each for each in greedy if readable(each)]
        for each in ended:
            head, _, body = each.recv(65536).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 429 ")
            assert b"retry-after: " in head
            assert b"other clients need the memory" in body
        assert len(ended) < 6
    assert nothing_is_held(serving)


# ── connections ──


def get(serving: FakeServing, path: str, address: str) -> socket.socket:
    """A connection that has sent a request, and stays open."""
    peer = ("127.0.0.1", serving.running.port)
    connection = socket.create_connection(peer, PATIENCE, (address, 0))
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode())
    return connection


def test_idle_connections_never_keep_a_probe_out(start: Start, dial: Dial) -> None:
    serving = start(max_connections=16)
    honest = dial(serving, HONEST)
    with ExitStack() as stack:
        for number in range(60):
            if number % 2:
                idle = stack.enter_context(get(serving, "/live", GREEDY))
                assert idle.recv(4096).startswith(b"HTTP/1.1 200 ")
            else:
                peer = ("127.0.0.1", serving.running.port)
                stack.enter_context(socket.create_connection(peer, PATIENCE, (GREEDY, 0)))
            with get(serving, "/ready", "127.0.0.1") as probe:
                assert probe.recv(4096).startswith(b"HTTP/1.1 200 ")
            assert honest.get("/live").status_code == 200


def test_the_oldest_idle_connection_makes_way_first(start: Start) -> None:
    serving = start(max_connections=3)
    with ExitStack() as stack:
        kept: list[socket.socket] = []
        for number in range(5):
            kept.append(stack.enter_context(get(serving, "/live", "127.0.0.1")))
            assert kept[-1].recv(4096).startswith(b"HTTP/1.1 200 ")
            if number == 2:  # the first one is used again: the second is the oldest idle one now
                kept[0].sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert kept[0].recv(4096).startswith(b"HTTP/1.1 200 ")
        assert (kept[1].recv(1), kept[2].recv(1)) == (b"", b"")
        assert not any(map(readable, (kept[0], kept[3], kept[4])))


def test_requests_that_do_not_arrive_make_way_and_running_ones_do_not(
    start: Start, dial: Dial
) -> None:
    serving = start(max_connections=4)
    graph = serving.graphs["text"]
    graph.hold()
    body = json.dumps(TEXT).encode()
    with ExitStack() as stack:
        running = [stack.enter_context(send(serving, GREEDY, body, len(body))) for _ in range(2)]
        assert eventually(lambda: serving.running.service.active == 2)
        slow_body = stack.enter_context(stall(serving, GREEDY, 10))
        slow_head = stack.enter_context(
            socket.create_connection(("127.0.0.1", serving.running.port), PATIENCE, (GREEDY, 0))
        )
        slow_head.sendall(b"POST /embeddings HTTP/1.1\r\nx: ")
        assert eventually(lambda: serving.running.service.active == 3)
        open_connections = serving.running.server.server_state.connections
        assert eventually(
            lambda: any(
                not each.waiting.is_idle(each, GREEDY) and each.cycle is None
                for each in list(open_connections)
                if isinstance(each, Connection)
            )
        )
        probes = [stack.enter_context(get(serving, "/live", HONEST)) for _ in range(2)]
        for probe in probes:
            assert probe.recv(4096).startswith(b"HTTP/1.1 200 ")
        with suppress(ConnectionResetError):
            assert slow_body.recv(1) == b""
        answer = slow_head.recv(4096)
        assert answer.startswith(b"HTTP/1.1 503 ")
        graph.release()
        for each in running:
            assert each.recv(4096).startswith(b"HTTP/1.1 200 ")


# ── nothing is left ──


def invalid(serving: FakeServing, client: httpx2.Client, slow: SlowHost) -> None:
    images = {"type": "image_base64", "image_base64": ["AAAA"] * 20}
    assert client.post("/embeddings", json={"input": images}).status_code == 415


def left(serving: FakeServing, client: httpx2.Client, slow: SlowHost) -> None:
    serving.graphs["text"].hold()
    give_up(client, texts(*"abcdefghijkl"))
    serving.graphs["text"].release()


def left_while_fetching(serving: FakeServing, client: httpx2.Client, slow: SlowHost) -> None:
    give_up(client, {"input": {"type": "image_url", "image_url": [f"{slow.url}/a"] * 40}})


def left_during_a_video(serving: FakeServing, client: httpx2.Client, slow: SlowHost) -> None:
    serving.graphs["image"].hold()
    video = base64.b64encode(write_video(frames=60)).decode()
    give_up(client, {"input": {"type": "video_base64", "video_base64": video}})
    serving.graphs["image"].release()


def timed_out(serving: FakeServing, client: httpx2.Client, slow: SlowHost) -> None:
    mixed = {"input": ["a", {"image": f"{slow.url}/a"}, "b"]}
    assert client.post("/v1/embeddings", json=mixed).status_code == 504


def failed_in_the_graph(serving: FakeServing, client: httpx2.Client, slow: SlowHost) -> None:
    serving.graphs["text"].close()
    many = texts(*(f"text {n}" for n in range(200)))
    assert client.post("/embeddings", json=many).status_code == 200


def full(serving: FakeServing, client: httpx2.Client, slow: SlowHost) -> None:
    serving.graphs["text"].hold()
    with ThreadPoolExecutor(8) as threads:
        answers = [
            threads.submit(client.post, "/embeddings", json=texts(*(f"{n} {m}" for m in range(30))))
            for n in range(8)
        ]
        assert eventually(lambda: sum(each.done() for each in answers) >= 5)
        serving.graphs["text"].release()
        assert {each.result().status_code for each in answers} == {200, 429}


@pytest.mark.parametrize(
    "scene",
    [invalid, left, left_while_fetching, left_during_a_video, timed_out, failed_in_the_graph, full],
)
def test_nothing_stays_held_however_a_request_ends(
    start: Start, dial: Dial, slow: SlowHost, scene: Callable[..., None]
) -> None:
    serving = start(
        allowed_hosts=("127.0.0.1",), queue_limit=100, max_fetches=8, request_timeout=4.0
    )
    threads = threading.active_count()
    scene(serving, dial(serving, GREEDY), slow)
    assert nothing_is_held(serving)
    assert dial(serving, GREEDY).post("/embeddings", json=TEXT).status_code == 200
    assert threading.active_count() < threads + 40
