"""Which URLs and addresses the service may connect to (guard against server-side request forgery).

A URL is parsed once, and the connection goes to the host and port that were checked here. The
tables are IANA's special-purpose address registries (RFC 6890 and updates).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx2

from multimodal_embedding_serving.errors import Forbidden, InvalidInput, SettingsError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

BLOCKED_IPV4 = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.52.193.0/24", "192.88.99.0/24",
        "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's metadata and DNS, at a public address
    )
)  # fmt: skip
GLOBAL_UNICAST = IPv6Network("2000::/3")
BLOCKED_IPV6 = tuple(
    IPv6Network(block)
    for block in (
        "2001::/23",  # Teredo, ORCHID, benchmarking ...
        "2001:db8::/32", "2002::/16", "3fff::/20",  # documentation, 6to4, documentation
    )
)  # fmt: skip
NAT64 = IPv6Network("64:ff9b::/96")

LOCAL_NAMES = ("localhost", "local", "internal", "localdomain", "home.arpa", "lan", "intranet")
HOST_NAME = re.compile(
    r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_][a-z0-9_-]{0,62}"
)
NUMERIC_LABEL = re.compile(r"(\d+|0x[0-9a-f]*)")
MAX_URL_CHARS = 8192
HOST_NOT_ALLOWED = "fetching this host is not allowed (see EMBEDDING_MEDIA_ALLOWED_HOSTS)"


def is_public(address: str) -> bool:
    """Whether this is a globally routable unicast address, also inside an IPv6 wrapper."""
    ip = unwrap(address)
    if ip is None:
        return False
    if isinstance(ip, IPv4Address):
        return ip.is_global and not any(ip in block for block in BLOCKED_IPV4)
    if ip not in GLOBAL_UNICAST or any(ip in block for block in BLOCKED_IPV6):
        return False
    return ip.is_global


def unwrap(address: str) -> Address | None:
    """Parse an address; IPv4-mapped and NAT64 forms give the IPv4 address inside. None if this is
    not an IP address, or an IPv6 address with a zone."""
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, IPv6Address):
        if ip.scope_id is not None:
            return None
        if ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        if ip in NAT64:
            return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the allowlist: host[:port], *.domain[:port], or CIDR[:port] ([v6]:port)."""

    port: int | None
    name: str = ""
    domain: str = ""
    network: Network | None = None

    @classmethod
    def parse(cls, text: str) -> Entry:
        match = re.fullmatch(r"\[([^\]]+)\](?::(\d+))?|([^:]+)(?::(\d+))?|(.*:.*:.*)", text)
        host, digits = "", None
        if match is not None:
            host = (match[1] or match[3] or match[5] or "").lower().rstrip(".")
            digits = match[2] or match[4]
        port = None if digits is None else int(digits)
        wildcard = host.startswith("*.")
        if 0 < (1 if port is None else port) < 65536:
            with contextlib.suppress(ValueError):
                return cls(port, network=ip_network(host, strict=False))
            if HOST_NAME.fullmatch(host[2:] if wildcard else host):
                return cls(port, domain=host[1:]) if wildcard else cls(port, name=host)
        raise SettingsError(
            f"EMBEDDING_MEDIA_ALLOWED_HOSTS: {text!r} is not valid; use host, host:port, *.domain, "
            "an address or a CIDR block (with a port, write IPv6 in brackets)"
        )

    def matches_name(self, host: str, port: int) -> bool:
        if self.port not in (None, port):
            return False
        if self.domain:
            return host.endswith(self.domain) and host != self.domain
        return bool(self.name) and host == self.name

    def matches_address(self, address: str, port: int) -> bool:
        ip = unwrap(address)
        if self.network is None or ip is None or self.port not in (None, port):
            return False
        return ip.version == self.network.version and ip in self.network


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a vetted URL; `host` is lower-case ASCII, IPv6 addresses without brackets."""

    scheme: str
    host: str
    port: int
    path: bytes
    """Includes the query, percent-encoded."""
    url: httpx2.URL

    @property
    def authority(self) -> bytes:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_default = self.port == {"http": 80, "https": 443}[self.scheme]
        return (host if is_default else f"{host}:{self.port}").encode("ascii")


class AddressRules:
    """`mode` is off, public (public addresses and the allowlist), or allowlist (only that)."""

    def __init__(self, mode: str, allowed: Sequence[str]) -> None:
        self._mode = mode
        self._entries = tuple(Entry.parse(text) for text in allowed)

    def vet_url(self, url: str) -> Target:
        """Parse a URL. Raises Forbidden if it must not be fetched, InvalidInput if malformed."""
        if self._mode == "off":
            raise Forbidden("fetching URLs is disabled (EMBEDDING_MEDIA_FETCH=off)")
        if len(url) > MAX_URL_CHARS:
            raise InvalidInput(
                f"the URL has {len(url):,} characters; the limit is {MAX_URL_CHARS:,}"
            )
        if "\\" in url or any(ord(char) <= 0x20 or 0x7F <= ord(char) <= 0xA0 for char in url):
            raise Forbidden("a URL must not contain backslashes, spaces or control characters")
        try:
            parsed = httpx2.URL(url)
            scheme, host = parsed.scheme, parsed.raw_host.decode("ascii").lower()
            port = parsed.port or {"http": 80, "https": 443}.get(scheme, 0)
        except (httpx2.InvalidURL, ValueError, TypeError):
            raise InvalidInput(
                "not a valid URL; use http://host/path or https://host/path"
            ) from None
        if scheme not in ("http", "https"):
            raise Forbidden("only http and https URLs are supported")
        if "@" in re.split(r"[/?#]", url.partition("//")[2], maxsplit=1)[0]:
            raise Forbidden("a URL must not contain a user name or password")
        target = Target(scheme, _host(host), port, parsed.raw_path, parsed)
        self._vet_port(target)
        return target

    def vet_addresses(self, host: str, port: int, addresses: Sequence[str]) -> None:
        """Raise Forbidden unless connecting to every address of `host` is allowed.

        The message leaves the addresses out: they would map the internal network for a stranger.
        """
        if self._is_listed(host, port):
            return
        for address in addresses:
            public = self._mode == "public" and is_public(address)
            if not public and not any(
                entry.matches_address(address, port) for entry in self._entries
            ):
                raise Forbidden(HOST_NOT_ALLOWED)

    def vet_name(self, host: str, port: int) -> None:
        """Check the name alone: before it is resolved, or where a proxy resolves it."""
        if unwrap(host) is not None:
            self.vet_addresses(host, port, [host])
            return
        by_address = self._mode == "public" or any(entry.network for entry in self._entries)
        if not by_address and not self._is_listed(host, port):
            raise Forbidden(HOST_NOT_ALLOWED)

    def vet_name_for_proxy(self, host: str, port: int) -> None:
        """A proxy resolves out of our sight, so names of private hosts are rejected."""
        self.vet_name(host, port)
        if unwrap(host) is None and not self._is_listed(host, port):
            local = "." not in host or any(host.endswith(f".{name}") for name in LOCAL_NAMES)
            if self._mode != "public" or local:
                raise Forbidden(HOST_NOT_ALLOWED)

    def _is_listed(self, host: str, port: int) -> bool:
        return any(entry.matches_name(host, port) for entry in self._entries)

    def _vet_port(self, target: Target) -> None:
        """Allow web ports, unprivileged ports, and those that the allowlist names for this host."""
        port = target.port
        if port in (80, 443) or 1024 <= port < 65536:
            return
        host, entries = target.host, [entry for entry in self._entries if entry.port == port]
        if not any(e.matches_name(host, port) or e.matches_address(host, port) for e in entries):
            raise Forbidden(
                "fetching this port is not allowed: use 80, 443 or 1024 to 65535, or add host:port "
                "to EMBEDDING_MEDIA_ALLOWED_HOSTS"
            )


def _host(host: str) -> str:
    """One spelling per host; rejects spellings of addresses that only some parsers accept."""
    host = host.removeprefix("[").removesuffix("]")
    if ":" in host:
        if unwrap(host) is None:
            raise Forbidden(HOST_NOT_ALLOWED)
        return str(ip_address(host))
    host = host.removesuffix(".")
    if not host:
        raise InvalidInput("the URL has no host")
    last = host.rpartition(".")[2]
    if NUMERIC_LABEL.fullmatch(last):  # 127.1, 0x7f000001, 2130706433, 0177.0.0.1 ...
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise Forbidden(HOST_NOT_ALLOWED) from None
    if not HOST_NAME.fullmatch(host):
        raise InvalidInput("the URL's host name is not valid")
    return host
