"""Keeps other sites' pages away from a server that listens on the loopback without API keys.

A page may resolve its own name to 127.0.0.1 (DNS rebinding) and then read what it likes, or post
from its own origin without reading the response. Browsers tell both: by the Host header and by
Sec-Fetch-Site. Any other address, or any key, changes nothing: there the deployment decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from multimodal_embedding_serving.api.dialects import error_response
from multimodal_embedding_serving.api.errors import note_error
from multimodal_embedding_serving.api.paths import route_path
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.settings import Settings

LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "[::1]"))
PAGES = re.compile(r"/|/docs(/.*)?|/playground(/.*)?")
"""Routes that people open in a browser, also from a link on another site."""
PORT = re.compile(r":\d*$")


class HostNotAllowed(EmbeddingError):
    """The Host header names another host than this loopback server."""

    status, code = 403, "host_not_allowed"


class OtherSite(EmbeddingError):
    """A web page of another site called this loopback server."""

    status, code = 403, "cross_site"


class BrowserGuard:
    """Middleware that rejects foreign Host headers and requests of other sites' pages."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = {*LOOPBACK_NAMES, *map(str.lower, settings.server_names)}
        self._origins = frozenset(settings.cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        error = self._check(scope) if scope["type"] == "http" else None
        if error is None:
            await self._app(scope, receive, send)
            return
        note_error(scope, error)
        await error_response(error, scope)(scope, receive, send)

    def _check(self, scope: Scope) -> EmbeddingError | None:
        headers = {
            name: value.decode("latin-1").strip().lower() for name, value in scope["headers"]
        }
        host = headers.get(b"host")  # HTTP/1.0 has none; a browser always sends it
        if host is not None and not self._names_us(host):
            return HostNotAllowed(
                "the Host header names another host than localhost, 127.0.0.1 or [::1]; behind a "
                "proxy, list the names that clients use in EMBEDDING_ALLOWED_HOSTS (* = any)"
            )
        if headers.get(b"sec-fetch-site") == "cross-site" and not self._is_welcome(scope, headers):
            return OtherSite(
                "a page of another site may not call this server; list its origin in "
                "EMBEDDING_CORS_ORIGINS, or set EMBEDDING_API_KEYS"
            )
        return None

    def _names_us(self, host: str) -> bool:
        return "*" in self._hosts or host in self._hosts or PORT.sub("", host) in self._hosts

    def _is_welcome(self, scope: Scope, headers: Mapping[bytes, str]) -> bool:
        if "*" in self._origins or headers.get(b"origin") in self._origins:
            return True
        navigates = headers.get(b"sec-fetch-mode") == "navigate" and scope["method"] == "GET"
        return navigates and PAGES.fullmatch(route_path(scope)) is not None
