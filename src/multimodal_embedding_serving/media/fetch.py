"""URL -> bytes and path -> file, each checked against the settings.

A host is resolved once, all its addresses are vetted, and the connection goes to a vetted address
with the URL's own Host header and server name, so a second DNS answer changes nothing. Proxies,
credentials and cookies of the environment are neither used nor sent, and no message contains an
address.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

import httpcore2
import httpx2

from multimodal_embedding_serving.errors import (
    InvalidInput,
    RemoteFailed,
    SettingsError,
    TooLarge,
)
from multimodal_embedding_serving.media.addresses import AddressRules, Target, unwrap
from multimodal_embedding_serving.monitoring.request import hold

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port -> the host's addresses; raises OSError if there are none."""

MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
CONNECT_SECONDS = 10.0
SILENT_SECONDS = 20.0
"""A fetch ends when no data arrive for this long."""
GRACE_SECONDS = 10.0
MIN_RATE = 1024
"""Average bytes per second after the grace period: a trickle would occupy its place for ever."""
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
    entries = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


class VettedBackend(httpcore2.AsyncNetworkBackend):
    """Connects only to addresses that pass the rules."""

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
        raise RemoteFailed("could not connect to the URL's host")

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            addresses = []
        if not addresses:
            raise RemoteFailed("could not resolve the URL's host")
        return addresses

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Fetcher:
    """Downloads media. `mode`, `allowed_hosts`: see AddressRules. `proxy`: a URL, or "" for none;
    with a proxy, hosts are vetted by name, since the proxy resolves them. `timeout`: seconds for a
    whole fetch.

    `resolver`, `tls` and `clock` replace the system's.
    """

    def __init__(
        self,
        *,
        mode: str,
        allowed_hosts: Sequence[str],
        proxy: str,
        timeout: float,
        max_connections: int = 64,
        resolver: Resolve = resolve,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = AddressRules(mode, allowed_hosts)
        self._proxy = _parse_proxy(proxy) if proxy else None
        self._backend = VettedBackend(self._rules, resolver)
        self._tls = tls
        self._timeout, self._max_connections = timeout, max_connections
        self._clock = clock
        self._opening = asyncio.Lock()
        self._pool: httpcore2.AsyncConnectionPool | None = None

    async def get(self, url: str, *, max_bytes: int) -> bytes:
        """Download the body of a URL.

        Raises Forbidden (URL or address not allowed), InvalidInput (malformed URL), TooLarge (above
        `max_bytes`, or above what one request may hold), QueueFull (other requests hold too much
        memory), RemoteFailed (can't be resolved or reached, status, too slow).
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._follow(url, max_bytes)
        except (TimeoutError, httpcore2.TimeoutException):
            raise RemoteFailed("the remote server did not respond in time") from None
        except REMOTE_ERRORS:
            raise RemoteFailed("the connection to the remote server failed") from None

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()

    async def _open(self) -> httpcore2.AsyncConnectionPool:
        """Create the pool at the first fetch, on a thread: loading certificates takes 100 ms."""
        async with self._opening:
            if self._pool is None:
                self._pool = await asyncio.to_thread(self._make_pool)
            return self._pool

    def _make_pool(self) -> httpcore2.AsyncConnectionPool:
        tls = self._tls or httpx2.create_ssl_context(trust_env=False)
        if self._proxy is None:
            return httpcore2.AsyncConnectionPool(
                tls,
                max_connections=self._max_connections,
                keepalive_expiry=5.0,
                network_backend=self._backend,
            )
        return httpcore2.AsyncHTTPProxy(
            str(self._proxy.url),
            self._proxy.raw_auth,
            ssl_context=tls,
            max_connections=self._max_connections,
            keepalive_expiry=5.0,
        )

    async def _follow(self, url: str, max_bytes: int) -> bytes:
        target = self._vet(url)
        for _ in range(MAX_REDIRECTS + 1):
            body, location = await self._request(target, max_bytes)
            if location is None:
                return body
            try:
                target = self._vet(str(target.url.join(location)))
            except (httpx2.InvalidURL, ValueError, InvalidInput):
                raise RemoteFailed("the remote server redirects to an invalid URL") from None
        raise RemoteFailed(f"the remote server redirects more than {MAX_REDIRECTS} times")

    def _vet(self, url: str) -> Target:
        target = self._rules.vet_url(url)
        if self._proxy is None:
            self._rules.vet_name(target.host, target.port)
        else:
            self._rules.vet_name_for_proxy(target.host, target.port)
        return target

    async def _request(self, target: Target, max_bytes: int) -> tuple[bytes, str | None]:
        """The body, or the location that the server redirects to."""
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
            return await self._read_response(response, max_bytes)

    async def _read_response(
        self, response: httpcore2.Response, max_bytes: int
    ) -> tuple[bytes, str | None]:
        headers = {name.lower(): value for name, value in response.headers}
        if response.status in REDIRECTS and b"location" in headers:
            return b"", headers[b"location"].decode("latin-1")
        if not 200 <= response.status < 300:
            raise RemoteFailed(f"the remote server responded with status {response.status}")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RemoteFailed("the remote server sent a compressed body, which was not requested")
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
            seconds = self._clock() - started
            if seconds > GRACE_SECONDS and body.tell() < MIN_RATE * seconds:
                raise RemoteFailed(
                    f"the remote server sends too slowly (less than {MIN_RATE:,} bytes per second)"
                )
        return body.getvalue()


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"the file at the URL is larger than the limit of {max_bytes:,} bytes")


def check_rules(allowed_hosts: Sequence[str], proxy: str) -> None:
    """Check the settings of a Fetcher without making one. Raises SettingsError."""
    AddressRules("off", allowed_hosts)
    if proxy:
        _parse_proxy(proxy)


def _parse_proxy(url: str) -> httpx2.Proxy:
    with contextlib.suppress(httpx2.InvalidURL, ValueError):
        proxy = httpx2.Proxy(url)
        if proxy.url.scheme in ("http", "https") and proxy.url.host:
            return proxy
    raise SettingsError(
        "EMBEDDING_MEDIA_PROXY is not valid; use http://host:port or https://host:port"
    )
