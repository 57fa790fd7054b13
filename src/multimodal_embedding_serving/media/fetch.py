"""URL -> bytes and path -> file, each guarded.

A host is resolved once, every address is vetted, and the connection goes to a vetted address with
the URL's Host and server name kept: a second DNS answer changes nothing. Nothing of the environment
(proxies, credentials, cookies) is used or sent, and messages hold no address.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import ssl
import stat
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import httpcore2
import httpx2

from multimodal_embedding_serving.errors import (
    Forbidden,
    InvalidInput,
    NotFound,
    RemoteFailed,
    SettingsError,
    TooLarge,
)
from multimodal_embedding_serving.media.addresses import AddressRules, Target, unwrap
from multimodal_embedding_serving.monitoring.request import hold

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port -> the host's addresses; OSError where it has none."""

MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
CONNECT_SECONDS = 10.0
SILENT_SECONDS = 20.0
"""A read that brings nothing for so long ends the fetch."""
GRACE_SECONDS = 10.0
LEAST_RATE = 1024
"""Bytes a second, on average, once the grace is over: a trickle would hold its place for ever."""
HEADERS = [
    (b"Accept", b"image/*, video/*, */*;q=0.5"),
    (b"Accept-Encoding", b"identity"),  # a compressed body could be a bomb
    (b"User-Agent", b"multimodal-embedding-serving"),
]
REMOTE_ERRORS = (
    httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError,
    httpcore2.UnsupportedProtocol, httpcore2.TimeoutException, OSError, ssl.SSLError,
)  # fmt: skip


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class VettedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that passed the rules, and to nothing else."""

    def __init__(self, rules: AddressRules, resolver: Resolve) -> None:
        self._rules = rules
        self._resolve = resolver
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore2's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = [host] if unwrap(host) is not None else await self._addresses(host, port)
        self._rules.vet_addresses(host, port, addresses)
        for address in addresses:
            try:
                return await self._network.connect_tcp(
                    address, port, timeout=timeout, socket_options=socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        raise RemoteFailed("the URL's host does not accept connections")

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise RemoteFailed("the URL's host can't be resolved")
        return addresses

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Fetcher:
    """`mode`, `allowed_hosts`: see AddressRules. `proxy`: a URL, or "" for none; with one, hosts
    are vetted by name, since the proxy resolves. `timeout`: seconds for a whole fetch.

    `resolver`, `tls` and `clock` replace the system's.
    """

    def __init__(
        self,
        *,
        mode: str,
        allowed_hosts: Sequence[str],
        proxy: str,
        timeout: float,
        resolver: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = AddressRules(mode, allowed_hosts)
        self._proxy = _parse_proxy(proxy) if proxy else None
        self._backend = VettedBackend(self._rules, resolver)
        self._tls = tls
        self._timeout = timeout
        self._clock = clock
        self._opening = asyncio.Lock()
        self._pool: httpcore2.AsyncConnectionPool | None = None

    async def get(self, url: str, *, max_bytes: int) -> bytes:
        """The body behind a URL.

        Raises Forbidden (refused URL or address), InvalidInput (no URL), TooLarge (above
        `max_bytes`, or than a request may hold), QueueFull (others hold too much), RemoteFailed
        (can't be resolved or reached, status, too slow).
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._follow(url, max_bytes)
        except (TimeoutError, httpcore2.TimeoutException):
            raise RemoteFailed("the remote server did not answer in time") from None
        except REMOTE_ERRORS:
            raise RemoteFailed("the connection to the remote server failed") from None

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    async def _open(self) -> httpcore2.AsyncConnectionPool:
        """Made at the first fetch, on a thread: reading the certificates takes 100 ms."""
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncio.to_thread(self._make_pool)
            return self._pool

    def _make_pool(self) -> httpcore2.AsyncConnectionPool:
        tls = self._tls or httpx2.create_ssl_context(trust_env=False)
        if self._proxy is None:
            return httpcore2.AsyncConnectionPool(
                tls, max_connections=64, keepalive_expiry=5.0, network_backend=self._backend
            )
        return httpcore2.AsyncHTTPProxy(
            str(self._proxy.url),
            self._proxy.raw_auth,
            ssl_context=tls,
            max_connections=64,
            keepalive_expiry=5.0,
        )

    async def _follow(self, url: str, max_bytes: int) -> bytes:
        target = self._vet(url)
        for _ in range(MAX_REDIRECTS + 1):
            body, location = await self._ask(target, max_bytes)
            if location is None:
                return body
            try:
                target = self._vet(str(target.url.join(location)))
            except (httpx2.InvalidURL, ValueError, InvalidInput):
                raise RemoteFailed("the remote server redirects to no valid URL") from None
        raise RemoteFailed(f"the remote server redirects more than {MAX_REDIRECTS} times")

    def _vet(self, url: str) -> Target:
        target = self._rules.vet_url(url)
        if self._proxy is None:
            self._rules.vet_name(target.host, target.port)
        else:
            self._rules.vet_name_for_proxy(target.host, target.port)
        return target

    async def _ask(self, target: Target, max_bytes: int) -> tuple[bytes, str | None]:
        """The body, or where the server redirects to."""
        timeouts = {
            "connect": min(CONNECT_SECONDS, self._timeout),
            "read": min(SILENT_SECONDS, self._timeout),
            "write": min(SILENT_SECONDS, self._timeout),
            "pool": self._timeout,
        }
        address = httpcore2.URL(
            scheme=target.scheme, host=target.host, port=target.url.port, target=target.path
        )
        headers = [(b"Host", target.authority), *HEADERS]
        pool = await self._open()
        async with pool.stream(
            "GET", address, headers=headers, extensions={"timeout": timeouts}
        ) as response:
            return await self._answer(response, max_bytes)

    async def _answer(
        self, response: httpcore2.Response, max_bytes: int
    ) -> tuple[bytes, str | None]:
        headers = {name.lower(): value for name, value in response.headers}
        if response.status in REDIRECTS and b"location" in headers:
            return b"", headers[b"location"].decode("latin-1")
        if not 200 <= response.status < 300:
            raise RemoteFailed(f"the remote server answered with status {response.status}")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RemoteFailed("the remote server sent a compressed body, unasked")
        return await self._read(response, headers.get(b"content-length"), max_bytes), None

    async def _read(
        self, response: httpcore2.Response, declared: bytes | None, max_bytes: int
    ) -> bytes:
        if declared is not None and declared.isdigit() and int(declared) > max_bytes:
            raise _too_large(max_bytes)
        body, started = io.BytesIO(), self._clock()
        async for part in response.aiter_stream():
            if body.write(part) and body.tell() > max_bytes:
                raise _too_large(max_bytes)
            hold(len(part))
            taken = self._clock() - started
            if taken > GRACE_SECONDS and body.tell() < LEAST_RATE * taken:
                raise RemoteFailed("the remote server sends too slowly")
        return body.getvalue()


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the file behind the URL is larger than {max_bytes:,} bytes")


def _parse_proxy(url: str) -> httpx2.Proxy:
    with contextlib.suppress(httpx2.InvalidURL, ValueError):
        proxy = httpx2.Proxy(url)
        if proxy.url.scheme in ("http", "https") and proxy.url.host:
            return proxy
    raise SettingsError("EMBEDDING_MEDIA_PROXY is not allowed; allowed: http://host:port")


def media_path(path: str, roots: Sequence[Path]) -> Path:
    """The regular file that a caller's path names: relative to the first root, absolute only inside
    one of them, once links are resolved.

    Raises Forbidden outside (whether it exists or not), NotFound inside where there is no file.
    """
    if not path or "\0" in path:
        raise InvalidInput("a path may not be empty or hold NUL")
    if not roots:
        raise Forbidden("no folder may be read here")
    try:
        found = (roots[0] / path).resolve()
        inside = any(found.is_relative_to(root.resolve()) for root in roots)
    except (OSError, RuntimeError, UnicodeError):  # a loop of links, a name too long
        raise NotFound("there is no such file under the media roots") from None
    if not inside:
        raise Forbidden("the path is outside the folders that may be read")
    try:
        mode = found.stat().st_mode
    except (OSError, UnicodeError):
        raise NotFound("there is no such file under the media roots") from None
    if not stat.S_ISREG(mode):
        raise NotFound("the path names no regular file under the media roots")
    return found
