"""Fetching over real sockets, and files under the media roots."""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from multimodal_embedding_serving.errors import (
    EmbeddingError,
    Forbidden,
    InvalidInput,
    RemoteFailed,
    SettingsError,
    TooLarge,
)
from multimodal_embedding_serving.media.fetch import Fetcher, resolve
from tests.media.remote import Names, Remote, remote, response
from tests.media.spellings import PRIVATE_NAMES, private_urls

LOOPBACK = ["127.0.0.0/8"]
SITE = "site.example"


@pytest_asyncio.fixture
async def server() -> AsyncIterator[Remote]:
    async with remote() as shown:
        yield shown


def fetcher(
    *allowed: str,
    mode: str = "public",
    names: Names | None = None,
    timeout: float = 30,
    proxy: str = "",
) -> Fetcher:
    return Fetcher(
        mode=mode,
        allowed_hosts=allowed or LOOPBACK,
        proxy=proxy,
        timeout=timeout,
        resolver=names or Names(site_example="127.0.0.1"),
        tls=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )


async def get(one: Fetcher, url: str, *, max_bytes: int = 1 << 20) -> bytes:
    try:
        return await one.get(url, max_bytes=max_bytes)
    finally:
        await one.aclose()


async def failure(one: Fetcher, url: str, *, max_bytes: int = 1 << 20) -> EmbeddingError:
    with pytest.raises(EmbeddingError) as raised:
        await get(one, url, max_bytes=max_bytes)
    error = raised.value
    assert "127.0.0.1" not in str(error)
    assert "0x" not in str(error)
    return error


async def test_a_body_comes_back_with_host_kept_and_nothing_private_sent(server: Remote) -> None:
    server.ok("/a%20b.jpg?x=1", b"image")
    url = f"http://{SITE}:{server.port}/a%20b.jpg?x=1#part"
    assert await get(fetcher(), url) == b"image"
    (path, headers), *rest = server.requests
    assert not rest
    assert path == "/a%20b.jpg?x=1"
    assert headers["host"] == f"{SITE}:{server.port}"
    assert headers["accept-encoding"] == "identity"
    assert not {"cookie", "authorization", "referer", "proxy-authorization"} & set(headers)


async def test_a_host_is_resolved_once_and_the_vetted_address_is_connected_to(
    server: Remote,
) -> None:
    server.ok("/x", b"one")
    names = Names(site_example="127.0.0.1").then(SITE, "127.0.0.9")
    assert await get(fetcher(names=names), f"http://{SITE}:{server.port}/x") == b"one"
    assert names.lookups == [SITE]


async def test_rebinding_between_two_fetches_is_vetted_again(server: Remote) -> None:
    server.ok("/x", b"one")
    names = Names(site_example="127.0.0.1").then(SITE, "10.0.0.1")
    one = fetcher("127.0.0.0/8", names=names)
    assert await one.get(f"http://{SITE}:{server.port}/x", max_bytes=99) == b"one"
    assert isinstance(await failure(one, f"http://{SITE}:{server.port}/x"), Forbidden)


async def test_the_next_address_is_tried_where_the_first_refuses(server: Remote) -> None:
    server.ok("/x", b"one")
    names = Names(site_example=["127.0.0.2", "127.0.0.1"])
    assert await get(fetcher(names=names), f"http://{SITE}:{server.port}/x") == b"one"


async def test_loopback_is_refused_in_public_mode_without_an_entry(server: Remote) -> None:
    server.ok("/x", b"secret")
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
        one = fetcher("other.example", names=Names(localhost="127.0.0.1"))
        error = await failure(one, f"http://{host}:{server.port}/x")
        assert error.status == 403
    assert not server.requests


async def test_no_private_spelling_is_ever_resolved_or_connected_to() -> None:
    names = Names()
    one = fetcher("other.example", names=names)
    for url in private_urls():
        with pytest.raises((Forbidden, InvalidInput)):
            await one.get(url, max_bytes=1)
    assert not names.lookups
    for name, address in PRIVATE_NAMES.items():
        known = Names().then(name.lower().rstrip("."), address)
        assert (
            await failure(fetcher("other.example", names=known), f"http://{name}/")
        ).status == 403
    await one.aclose()


async def test_off_and_allowlist_refuse_before_resolving() -> None:
    names = Names(site_example="127.0.0.1")
    for one in (fetcher(mode="off", names=names), fetcher("minio", mode="allowlist", names=names)):
        assert isinstance(await failure(one, f"http://{SITE}/x"), Forbidden)
    assert not names.lookups


async def test_a_listed_host_may_be_private(server: Remote) -> None:
    server.ok("/x", b"one")
    for mode in ("public", "allowlist"):
        one = fetcher(f"{SITE}:{server.port}", mode=mode)
        assert await get(one, f"http://{SITE}:{server.port}/x") == b"one"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_three_redirects_are_followed_and_a_fourth_is_not(
    server: Remote, status: int
) -> None:
    here = f"http://{SITE}:{server.port}"
    server.redirect("/4", f"{here}/3", status)
    server.redirect("/3", "/2", status)
    server.redirect("/2", "1", status)
    server.redirect("/1", f"//{SITE}:{server.port}/0", status)
    server.ok("/0", b"there")
    assert await get(fetcher(), f"{here}/3") == b"there"
    error = await failure(fetcher(), f"{here}/4")
    assert isinstance(error, RemoteFailed)
    assert "redirects" in str(error)


@pytest.mark.parametrize(
    ("location", "status"),
    [
        ("http://10.0.0.1/x", 403),
        ("http://169.254.169.254/latest/meta-data", 403),
        ("http://inner.example/x", 403),
        ("file:///etc/passwd", 403),
        ("ftp://site.example/x", 403),
        ("http://user:word@site.example/x", 403),
        ("http://site.example:22/x", 403),
        ("http://[::1]:9/x", 403),
        ("http://unknown.example/x", 424),
        ("http://exa mple/", 424),
        ("http://[", 424),
    ],
)
async def test_each_redirect_is_vetted_again(server: Remote, location: str, status: int) -> None:
    server.redirect("/x", location)
    names = Names(site_example="127.0.0.1", inner_example="192.168.0.5")
    error = await failure(fetcher(names=names), f"http://{SITE}:{server.port}/x")
    assert error.status == status
    assert "169.254" not in str(error)
    assert "192.168" not in str(error)


@pytest.mark.parametrize("status", [204, 301, 304, 400, 401, 403, 404, 418, 429, 500, 503])
async def test_the_remote_status_is_reported(server: Remote, status: int) -> None:
    server.serve("/x", response(status, b"" if status in (204, 304) else b"secret words"))
    if status == 204:
        assert await get(fetcher(), f"http://{SITE}:{server.port}/x") == b""
        return
    error = await failure(fetcher(), f"http://{SITE}:{server.port}/x")
    assert isinstance(error, RemoteFailed)
    assert str(status) in str(error)
    assert "secret" not in str(error)


async def test_a_body_above_the_cap_is_a_413_by_header_and_by_count(server: Remote) -> None:
    server.ok("/declared", bytes(2000))
    chunk = b"400\r\n" + bytes(1024) + b"\r\n"
    server.serve("/chunked", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[chunk] * 9)
    server.serve("/until-close", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", bytes(5000))
    server.serve("/vast", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999\r\n\r\n", b"x")
    for path in ("declared", "chunked", "until-close", "vast"):
        error = await failure(fetcher(), f"http://{SITE}:{server.port}/{path}", max_bytes=1999)
        assert isinstance(error, TooLarge), path
    assert (
        len(await get(fetcher(), f"http://{SITE}:{server.port}/declared", max_bytes=2000)) == 2000
    )


async def test_a_lying_length_never_yields_more_or_less_than_it_says(server: Remote) -> None:
    server.serve("/short", b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n", b"only this")
    server.serve("/long", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", bytes(5000))
    error = await failure(fetcher(), f"http://{SITE}:{server.port}/short")
    assert isinstance(error, RemoteFailed)
    assert await get(fetcher(), f"http://{SITE}:{server.port}/long", max_bytes=10) == bytes(4)


async def test_a_compressed_body_is_refused(server: Remote) -> None:
    server.ok("/x", b"bomb", "Content-Encoding: gzip")
    error = await failure(fetcher(), f"http://{SITE}:{server.port}/x")
    assert isinstance(error, RemoteFailed)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"SSH-2.0-x\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA" + b"a" * 300_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_an_answer_that_is_not_http_is_a_424(server: Remote, answer: bytes) -> None:
    server.serve("/x", answer)
    assert (await failure(fetcher(), f"http://{SITE}:{server.port}/x")).status == 424


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\n", response(200, bytes(99))[:-50]])
async def test_a_server_that_hangs_is_a_424_at_the_deadline(server: Remote, sent: bytes) -> None:
    server.stay_open = True
    server.serve("/x", sent)
    error = await failure(fetcher(timeout=0.2), f"http://{SITE}:{server.port}/x")
    assert isinstance(error, RemoteFailed)
    assert "in time" in str(error)


async def test_a_trickle_is_cut_off_once_its_grace_is_over(server: Remote) -> None:
    server.serve("/x", response(200, bytes(900))[:-400], bytes(400))
    for seconds, outcome in ((11.0, "slowly"), (0.5, "")):
        one = Fetcher(
            mode="public",
            allowed_hosts=LOOPBACK,
            proxy="",
            timeout=30,
            clock=itertools.count(0, seconds).__next__,
            resolver=Names(site_example="127.0.0.1"),
        )
        if outcome:
            assert outcome in str(await failure(one, f"http://{SITE}:{server.port}/x"))
        else:
            assert len(await get(one, f"http://{SITE}:{server.port}/x")) == 900


async def test_a_host_that_cannot_be_resolved_or_reached_is_a_424() -> None:
    error = await failure(fetcher(), "http://nowhere.example/x")
    assert isinstance(error, RemoteFailed)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = await failure(fetcher(), f"http://{SITE}:{port}/x")
    assert isinstance(error, RemoteFailed)


async def test_a_proxy_of_the_environment_is_ignored(
    server: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.ok("/x", b"one")
    assert await get(fetcher(), f"http://{SITE}:{server.port}/x") == b"one"


async def test_a_configured_proxy_is_used_and_does_the_resolving(server: Remote) -> None:
    server.ok("http://far.example/x", b"far")
    names = Names()
    one = fetcher("minio:9000", names=names, proxy=f"http://me:word@127.0.0.1:{server.port}")
    assert await one.get("http://far.example/x", max_bytes=99) == b"far"
    assert server.requests[0][1]["host"] == "far.example"
    assert server.requests[0][1]["proxy-authorization"].startswith("Basic ")
    for url in ("http://localhost/x", "http://10.0.0.1/x", "http://minio:9001/x"):
        with pytest.raises(Forbidden):
            await one.get(url, max_bytes=99)
    assert len(server.requests) == 1
    assert not names.lookups
    await one.aclose()


@pytest.mark.parametrize("proxy", ["nonsense", "socks5://x:1", "ftp://x", "http://", "http://[::1"])
def test_a_proxy_that_makes_no_sense_is_refused_at_start(proxy: str) -> None:
    with pytest.raises(SettingsError, match="EMBEDDING_MEDIA_PROXY"):
        fetcher(proxy=proxy)


async def test_many_fetches_share_one_fetcher(server: Remote) -> None:
    one = fetcher()
    for number in range(40):
        server.ok(f"/{number}", str(number).encode())
    url = f"http://{SITE}:{server.port}"
    bodies = await asyncio.gather(*(one.get(f"{url}/{n}", max_bytes=9) for n in range(40)))
    assert bodies == [str(number).encode() for number in range(40)]
    await one.aclose()


async def test_the_system_resolver_knows_literal_addresses() -> None:
    assert await resolve("127.0.0.1", 80) == ["127.0.0.1"]
