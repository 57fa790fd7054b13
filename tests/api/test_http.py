"""HTTP as clients and proxies use it: offers to upgrade, HEAD, slashes, gzip, idle connections."""

from __future__ import annotations

import gzip
import json
import random
import socket
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.api.content_encoding import decompress
from multimodal_embedding_serving.errors import InvalidInput, TooLarge
from tests.api.fakes import FakeServing, Start, text_row
from tests.fakes import PATIENCE, vector_of
from tests.media.processes import eventually

BODY = json.dumps({"input": "a"}).encode()
EXPECTED = vector_of(text_row("a"))
OFFERS = {
    "h2c": "Connection: Upgrade, HTTP2-Settings\nUpgrade: h2c\nHTTP2-Settings: AAEAAEAAAAIAAAAA\n",
    "websocket": "Connection: keep-alive, Upgrade\nUpgrade: websocket\nSec-WebSocket-Version: 13\n",
    "several": "Upgrade: h2c, TLS/1.0\nconnection: upgrade\nUpgrade: foo\n",
}
GETS = ("/", "/docs", "/docs/swagger-ui.css", "/health", "/live", "/metrics",
        "/model/capabilities", "/model/current", "/model/list", "/models", "/openapi.json",
        "/playground/main.js", "/playground/samples.json", "/ready", "/v1/models",
        "/v1/models/clip-vit-b-32", "/api/ps", "/api/tags", "/api/version", "/info", "/meta",
        "/ping", "/props", "/.well-known/live", "/.well-known/ready")  # fmt: skip


@contextmanager
def connected(serving: FakeServing) -> Iterator[socket.socket]:
    address = ("127.0.0.1", serving.running.port)
    with socket.create_connection(address, timeout=PATIENCE) as connection:
        yield connection


def read_response(stream: Any) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next response, which has a Content-Length."""
    status = int(stream.readline().split()[1])
    lines = iter(lambda: stream.readline().decode().strip(), "")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return status, headers, stream.read(int(headers["content-length"]))


def post_with(offer: str, framing: str) -> bytes:
    head = f"POST /v1/embeddings HTTP/1.1\nHost: localhost\n{offer}{framing}\n"
    return head.replace("\n", "\r\n").encode()


# ── offers to upgrade ──


@pytest.mark.parametrize("cut", ["at once", "body later", "byte by byte"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_to_upgrade_is_ignored_and_the_body_is_kept(
    serving: FakeServing, offer: str, chunked: bool, cut: str
) -> None:
    framing = "Transfer-Encoding: chunked\n" if chunked else f"Content-Length: {len(BODY)}\n"
    head = post_with(OFFERS[offer], framing)
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY) if chunked else BODY
    whole = head + body
    parts = {
        "at once": [whole],
        "body later": [head, body],
        "byte by byte": [whole[at : at + 1] for at in range(len(whole))],
    }[cut]
    with connected(serving) as connection, connection.makefile("rb") as stream:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(3):  # the connection stays usable
            for part in parts:
                connection.sendall(part)
            status, headers, answer = read_response(stream)
            assert (status, "upgrade" in headers) == (200, False), answer
            assert np.allclose(json.loads(answer)["data"][0]["embedding"], EXPECTED)


def test_pipelined_requests_with_and_without_offers_are_answered_in_order(
    serving: FakeServing,
) -> None:
    length = f"Content-Length: {len(BODY)}\n"
    get = b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    sent = (post_with(OFFERS["h2c"], length) + BODY + get + post_with("", length) + BODY) * 20
    with connected(serving) as connection, connection.makefile("rb") as stream:
        connection.sendall(sent)
        kinds = [next(iter(json.loads(read_response(stream)[2]))) for _ in range(60)]
    assert kinds == ["object", "status", "object"] * 20


def test_an_offer_leaves_the_wish_to_close_the_connection(serving: FakeServing) -> None:
    head = (
        "POST /v1/embeddings HTTP/1.1\nHost: localhost\nConnection: Upgrade, close\nUpgrade: h2c\n"
    )
    head = f"{head}Content-Length: {len(BODY)}\n\n".replace("\n", "\r\n")
    with connected(serving) as connection, connection.makefile("rb") as stream:
        connection.sendall(head.encode() + BODY)
        status, headers, _ = read_response(stream)
        assert (status, headers["connection"]) == (200, "close")
        assert stream.read() == b""


def test_an_offer_with_a_body_above_the_limit_is_refused(start: Start) -> None:
    serving = start(max_body_mb=1)
    with connected(serving) as connection, connection.makefile("rb") as stream:
        connection.sendall(post_with(OFFERS["h2c"], "Content-Length: 2000000000\n"))
        assert read_response(stream)[0] == 400


# ── HEAD and trailing slashes ──


@pytest.mark.parametrize("path", GETS)
def test_head_is_answered_as_get_without_the_body(serving: FakeServing, path: str) -> None:
    answer = httpx2.get(serving.url + path)
    assert answer.status_code == (204 if path.startswith("/.well-known") else 200)
    head = f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with connected(serving) as connection, connection.makefile("rb") as stream:
        connection.sendall(head.encode())
        lines, _, body = stream.read().partition(b"\r\n\r\n")
    assert lines.startswith(b"HTTP/1.1 %d " % answer.status_code)
    assert body == b""
    if answer.content and path != "/metrics":  # which counts its own requests
        assert f"content-length: {len(answer.content)}".encode() in lines


def test_every_get_of_the_document_takes_head(serving: FakeServing) -> None:
    paths = httpx2.get(f"{serving.url}/openapi.json").json()["paths"]
    gets = {path for path, methods in paths.items() if "get" in methods and "{" not in path}
    assert gets <= set(GETS)


def test_head_of_a_post_route_is_a_405_that_allows_post(serving: FakeServing) -> None:
    answer = httpx2.head(f"{serving.url}/v1/embeddings")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = httpx2.post(f"{serving.url}/health")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", GETS[1:])
def test_a_trailing_slash_makes_no_difference_to_a_get(serving: FakeServing, path: str) -> None:
    assert httpx2.get(f"{serving.url}{path}/").is_success


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embeddings/", {"input": {"type": "text", "text": "a"}}),
        ("/v1/embeddings/", {"input": "a"}),
        ("/v2/embed/", {"texts": ["a"]}),
    ],
)
def test_a_trailing_slash_makes_no_difference_to_a_post(
    serving: FakeServing, path: str, body: Any
) -> None:
    assert httpx2.post(serving.url + path, json=body, follow_redirects=False).status_code == 200


# ── OpenAI's bodies at /embeddings ──


@pytest.mark.parametrize("source", ["a", ["a", "b"], [{"type": "text", "text": "a"}]])
def test_an_openai_body_at_embeddings_gets_openais_answer(http: httpx2.Client, source: Any) -> None:
    body = {"input": source, "encoding_format": "base64"}
    answers = [http.post(path, json=body) for path in ("/embeddings", "/v1/embeddings")]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json()["object"] == "list"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"input": []}, 400),
        ({"input": "a", "model": "other"}, 404),
        ({"input": "a", "encoding_format": "hex"}, 400),
        ({"input": [{"image": "!"}]}, 400),
    ],
)
def test_its_errors_are_openais_too(http: httpx2.Client, body: Any, status: int) -> None:
    answers = [http.post(path, json=body) for path in ("/embeddings", "/v1/embeddings")]
    assert [answer.status_code for answer in answers] == [status] * 2
    assert answers[0].json() == answers[1].json()


def test_the_native_body_keeps_its_answer_beside_it(http: httpx2.Client) -> None:
    answer = http.post("/embeddings", json={"input": {"type": "text", "text": ["a"]}}).json()
    assert np.allclose(answer["embedding"], [vector_of(text_row("a", "document"))])
    assert "detail" in http.post("/embeddings", json={"input": {"type": "text"}}).json()


# ── gzip ──


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "identity, gzip"])
def test_a_gzip_body_is_decompressed(http: httpx2.Client, coding: str) -> None:
    headers = {"content-encoding": coding}
    answer = http.post("/v1/embeddings", content=gzip.compress(BODY), headers=headers).json()
    assert np.allclose(answer["data"][0]["embedding"], EXPECTED)


def test_identity_is_no_coding(http: httpx2.Client) -> None:
    headers = {"content-encoding": "identity"}
    assert http.post("/v1/embeddings", content=BODY, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/embeddings", "/v1/embeddings", "/v2/embed"])
@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "deflate, gzip"])
def test_another_or_a_second_coding_is_a_415_that_names_it(
    http: httpx2.Client, path: str, coding: str
) -> None:
    answer = http.post(path, content=b"x", headers={"content-encoding": coding})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip")
    assert f"'{coding}'" in answer.text


def test_codings_in_several_headers_are_read_together(http: httpx2.Client) -> None:
    headers = [("content-encoding", "deflate"), ("content-encoding", "gzip")]
    assert http.post("/v1/embeddings", content=b"x", headers=headers).status_code == 415


def test_a_gzip_bomb_stops_at_the_limit_and_frees_its_memory(start: Start) -> None:
    serving = start(max_body_mb=1)
    bomb = gzip.compress(bytes(200 << 20))
    answer = httpx2.post(
        f"{serving.url}/embeddings", content=bomb, headers={"content-encoding": "gzip"}
    )
    assert answer.status_code == 413
    assert "1 MB decompressed (EMBEDDING_MAX_BODY_MB)" in answer.json()["detail"]
    assert eventually(lambda: serving.running.service.memory_quota.used == 0)


@given(st.binary(max_size=5000), st.integers(0, 9))
def test_gzip_data_is_what_zlib_says(data: bytes, level: int) -> None:
    assert decompress(gzip.compress(data, level), 5000, TooLarge("")) == data


def test_gzip_data_of_many_megabytes_is_whole() -> None:
    data = random.Random(0).randbytes(20 << 20) + bytes(20 << 20)
    assert decompress(gzip.compress(data, 1), 40 << 20, TooLarge("")) == data
    with pytest.raises(TooLarge):
        decompress(gzip.compress(data, 1), (40 << 20) - 1, TooLarge(""))


DAMAGED = {
    "nothing": b"",
    "one byte": b"\x1f",
    "no trailer": gzip.compress(BODY)[:-1],
    "half of it": gzip.compress(BODY)[:12],
    "zlib data": zlib.compress(BODY),
    "plain JSON": BODY,
    "more behind it": gzip.compress(BODY) + b"x",
    "a wrong checksum": gzip.compress(BODY)[:-8] + bytes(8),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_gzip_data_is_invalid(kind: str) -> None:
    with pytest.raises(InvalidInput):
        decompress(DAMAGED[kind], 1 << 20, TooLarge(""))


# ── idle connections ──


def test_an_idle_connection_is_closed_after_the_setting_and_not_before(start: Start) -> None:
    ask = b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with (
        connected(start(keepalive=0.2)) as short,
        connected(start()) as long,
        short.makefile("rb") as one,
        long.makefile("rb") as other,
    ):
        for connection, stream in ((short, one), (long, other)):
            connection.sendall(ask)
            assert read_response(stream)[0] == 200
        assert one.read() == b""
        long.sendall(ask)
        assert read_response(other)[0] == 200


def test_the_default_outlives_the_idle_time_of_load_balancers(start: Start) -> None:
    assert start().running.server.config.timeout_keep_alive == 75


# ── the root path ──


PREFIX = "/mm"


@pytest.fixture(scope="module")
def prefixed() -> Iterator[FakeServing]:
    shared = FakeServing(api_keys=("k",), root_path=PREFIX)
    yield shared
    shared.stop()


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/live", "/ready", "/health", "/playground/main.js", "/playground/samples.json"),
        *("/docs", "/docs/start.js", "/openapi.json"),
    ],
)
def test_open_routes_need_no_key_behind_a_root_path(prefixed: FakeServing, path: str) -> None:
    assert httpx2.get(prefixed.url + path).status_code == 200


@pytest.mark.parametrize("path", ["/models", "/metrics", "/v1/models", "/livex", "/docsx", "/mm"])
def test_other_routes_need_the_key_behind_a_root_path(prefixed: FakeServing, path: str) -> None:
    assert httpx2.get(prefixed.url + path).status_code == 401


REQUESTS: Sequence[tuple[str, Any, str]] = (
    ("/embeddings", {"input": {"type": "text", "text": "a"}}, "detail"),
    ("/v1/embeddings", {"input": "a"}, "error"),
    ("/embeddings", {"input": "a"}, "error"),
    ("/v2/embed", {"texts": ["a"]}, "message"),
)


@pytest.mark.parametrize(("path", "body", "field"), REQUESTS)
def test_every_dialect_works_behind_a_root_path(
    prefixed: FakeServing, path: str, body: Any, field: str
) -> None:
    headers = {"authorization": "Bearer k"}
    url = prefixed.url + path
    assert httpx2.post(url, json=body, headers=headers).status_code == 200
    refused = httpx2.post(url, json={**body, "model": "other"}, headers=headers)
    assert field in refused.json()
    assert httpx2.post(f"{url}/", json=body, headers=headers).status_code == 200
    metrics = httpx2.get(f"{prefixed.url}/metrics", headers=headers).text
    assert f'route="{path}"' in metrics


@pytest.mark.parametrize(
    ("prefix", "field"), [("", "detail"), ("/v1", "error"), ("/v2", "message")]
)
def test_errors_keep_their_dialect_behind_a_root_path(
    prefixed: FakeServing, prefix: str, field: str
) -> None:
    assert field in httpx2.get(f"{prefixed.url}{prefix}/nowhere").json()  # no key
    headers = {"authorization": "Bearer k"}
    assert field in httpx2.get(f"{prefixed.url}{prefix}/nowhere", headers=headers).json()


def test_the_document_names_the_root_path_as_its_server(prefixed: FakeServing) -> None:
    headers = {"authorization": "Bearer k"}
    document = httpx2.get(f"{prefixed.url}/openapi.json", headers=headers).json()
    assert document["servers"] == [{"url": PREFIX}]
