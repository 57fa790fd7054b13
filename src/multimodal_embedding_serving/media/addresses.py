"""Which URLs and addresses the service may connect to (guard against server-side request forgery).

A URL is parsed once; what is vetted here is what is connected to. Tables: IANA's special-purpose
address registries (RFC 6890 and updates).
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

REFUSED_IPV4 = tuple(
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
REFUSED_IPV6 = tuple(
    IPv6Network(block)
    for block in (
        "2001::/23",  # Teredo, ORCHID, benchmarking ...
        "2001:db8::/32", "2002::/16", "3fff::/20",  # documentation, 6to4, documentation
    )
)  # fmt: skip
NAT64 = IPv6Network("64:ff9b::/96")

LOCAL_NAMES = ("localhost", "local", "internal", "localdomain", "home.arpa", "lan", "intranet")
NAME = re.compile(
    r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_][a-z0-9_-]{0,62}"
)
NUMBER = re.compile(r"(\d+|0x[0-9a-f]*)")
MAX_URL = 8192


def is_public(address: str) -> bool:
    """Whether this is a globally routable unicast address, whatever form it is wrapped in."""
    found = unwrap(address)
    if found is None:
        return False
    if isinstance(found, IPv4Address):
        return found.is_global and not any(found in block for block in REFUSED_IPV4)
    if found not in GLOBAL_UNICAST or any(found in block for block in REFUSED_IPV6):
        return False
    return found.is_global


def unwrap(address: str) -> Address | None:
    """The address that is meant: IPv4-mapped and NAT64 forms give the IPv4 address within. None
    for what is no address, or has a zone."""
    try:
        found = ip_address(address)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        if found.scope_id is not None:
            return None
        if found.ipv4_mapped is not None:
            return found.ipv4_mapped
        if found in NAT64:
            return IPv4Address(int(found) & 0xFFFFFFFF)
    return found


@dataclass(frozen=True, slots=True)
class Entry:
    """One item of the allowlist: host[:port], *.domain[:port], or CIDR[:port] ([v6]:port)."""

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
        wild = host.startswith("*.")
        if 0 < (1 if port is None else port) < 65536:
            with contextlib.suppress(ValueError):
                return cls(port, network=ip_network(host, strict=False))
            if NAME.fullmatch(host[2:] if wild else host):
                return cls(port, domain=host[1:]) if wild else cls(port, name=host)
        raise SettingsError(
            f"EMBEDDING_MEDIA_ALLOWED_HOSTS: {text!r} is not allowed; allowed: host, host:port, "
            "*.domain, address, CIDR (IPv6 with a port in brackets)"
        )

    def names(self, host: str, port: int) -> bool:
        if self.port not in (None, port):
            return False
        if self.domain:
            return host.endswith(self.domain) and host != self.domain
        return bool(self.name) and host == self.name

    def holds(self, address: str, port: int) -> bool:
        found = unwrap(address)
        if self.network is None or found is None or self.port not in (None, port):
            return False
        return found.version == self.network.version and found in self.network


@dataclass(frozen=True, slots=True)
class Target:
    """A vetted URL in parts; `host` is lower-case ASCII, an IPv6 address without its brackets."""

    scheme: str
    host: str
    port: int
    path: bytes
    """With the query, percent-encoded."""
    url: httpx2.URL

    @property
    def authority(self) -> bytes:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        usual = self.port == {"http": 80, "https": 443}[self.scheme]
        return (host if usual else f"{host}:{self.port}").encode("ascii")


class AddressRules:
    """`mode` is off, public (public addresses, and what the allowlist adds), or allowlist."""

    def __init__(self, mode: str, allowed: Sequence[str]) -> None:
        self._mode = mode
        self._entries = tuple(Entry.parse(text) for text in allowed)

    def vet_url(self, url: str) -> Target:
        """Parse a URL; raises Forbidden for what may not be fetched, InvalidInput for no URL."""
        if self._mode == "off":
            raise Forbidden("fetching URLs is switched off here")
        if len(url) > MAX_URL:
            raise InvalidInput(f"a URL may have {MAX_URL} characters")
        if "\\" in url or any(ord(char) <= 0x20 or 0x7F <= ord(char) <= 0xA0 for char in url):
            raise Forbidden("a URL may hold no backslashes, spaces or control characters")
        try:
            parsed = httpx2.URL(url)
            scheme, host = parsed.scheme, parsed.raw_host.decode("ascii").lower()
            port = parsed.port or {"http": 80, "https": 443}.get(scheme, 0)
        except (httpx2.InvalidURL, ValueError, TypeError):
            raise InvalidInput("this is not a valid URL") from None
        if scheme not in ("http", "https"):
            raise Forbidden("only http and https URLs may be fetched")
        if "@" in re.split(r"[/?#]", url.partition("//")[2], maxsplit=1)[0]:
            raise Forbidden("a URL may hold no user name or password")
        target = Target(scheme, _host(host), port, parsed.raw_path, parsed)
        self._vet_port(target)
        return target

    def vet_addresses(self, host: str, port: int, addresses: Sequence[str]) -> None:
        """Raises Forbidden unless every one of the addresses that `host` has may be connected to.

        The message does not say what they are: it would map the network for a stranger.
        """
        if self._named(host, port):
            return
        for address in addresses:
            public = self._mode == "public" and is_public(address)
            if not public and not any(entry.holds(address, port) for entry in self._entries):
                raise Forbidden("the URL's host may not be fetched")

    def vet_name(self, host: str, port: int) -> None:
        """By name alone: before resolving, or where a proxy resolves."""
        if unwrap(host) is not None:
            self.vet_addresses(host, port, [host])
            return
        by_address = self._mode == "public" or any(entry.network for entry in self._entries)
        if not by_address and not self._named(host, port):
            raise Forbidden("the URL's host is not on the list of hosts that may be fetched")

    def vet_name_for_proxy(self, host: str, port: int) -> None:
        """A proxy resolves out of our sight: names that stand for private hosts are refused."""
        self.vet_name(host, port)
        if unwrap(host) is None and not self._named(host, port):
            local = "." not in host or any(host.endswith(f".{name}") for name in LOCAL_NAMES)
            if self._mode != "public" or local:
                raise Forbidden("the URL's host may not be fetched")

    def _named(self, host: str, port: int) -> bool:
        return any(entry.names(host, port) for entry in self._entries)

    def _vet_port(self, target: Target) -> None:
        """Web ports, unprivileged ones, and those that an entry of the allowlist spells out."""
        port = target.port
        if port in (80, 443) or 1024 <= port < 65536:
            return
        spelled = (entry for entry in self._entries if entry.port == port)
        if not any(e.names(target.host, port) or e.holds(target.host, port) for e in spelled):
            raise Forbidden("the URL's port may not be fetched")


def _host(host: str) -> str:
    """One spelling per host; refuses the spellings of addresses that only some parsers accept."""
    host = host.removeprefix("[").removesuffix("]")
    if ":" in host:
        found = unwrap(host)
        if found is None:
            raise Forbidden("the URL's host may not be fetched")
        return str(ip_address(host))
    host = host.removesuffix(".")
    if not host:
        raise InvalidInput("the URL names no host")
    if NUMBER.fullmatch(host.rpartition(".")[2]):  # 127.1, 0x7f000001, 2130706433, 0177.0.0.1 ...
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise Forbidden("the URL's host may not be fetched") from None
    if not NAME.fullmatch(host):
        raise InvalidInput("the URL's host is not a valid name")
    return host
