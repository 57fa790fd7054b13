"""Two ASGI middlewares that every request passes.

The outer one sets the request id and context, writes the log line and counts the request. The inner
one checks the API key, identifies the client, ends the request if it is evicted, and turns
unexpected exceptions into responses. CORS is between the two, so that a page of another origin can
read an error response.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multimodal_embedding_serving.api.dialects import error_response, find_dialect
from multimodal_embedding_serving.api.errors import Unexpected, error_code, note_error
from multimodal_embedding_serving.api.eviction import evictable
from multimodal_embedding_serving.api.paths import as_routed, route_path
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.errors import EmbeddingError, NotReady, QueueFull, Unauthorized
from multimodal_embedding_serving.monitoring.logs import current_request_id
from multimodal_embedding_serving.monitoring.request import RequestContext, current_request
from multimodal_embedding_serving.monitoring.tracing import name_request, request_span

log = logging.getLogger(__name__)

PUBLIC_PATHS = frozenset(
    (
        *("/", "/live", "/ready", "/health", "/docs", "/openapi.json"),
        *("/ping", "/.well-known/live", "/.well-known/ready"),
    )
)
PUBLIC_PREFIXES = ("/playground/", "/docs/")
"""What may be read without a key: probes, and the static pages, which ask for it themselves."""

CLIENT_CLOSED_REQUEST = 499
"""The client disconnected before the response; nginx's status for it."""
WORK = frozenset(("POST",))
"""Requests that embed something. Probes, pages and descriptions are logged at debug level: a probe
every few seconds, or the 30 files of a page, would bury them."""
MAX_LOGGED_PATH = 200
"""Characters of a path in the log."""

_VALID_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class RequestMiddleware:
    """The outer middleware: request id, context, log line and metrics."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, service = scope["headers"], self._service
        client_id = next((value for name, value in headers if name == b"x-request-id"), b"")
        request_id = client_id if _VALID_ID.fullmatch(client_id) else uuid.uuid4().hex.encode()
        context = RequestContext(service.memory_quota, request_id.decode())
        start, status = time.perf_counter(), CLIENT_CLOSED_REQUEST
        method, routed = scope["method"], as_routed(scope)

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        token = current_request.set(context)
        service.active += 1
        try:
            with request_span(method, headers) as span:
                await self._app(routed, receive, sender)
                name_request(
                    span, method, _route(routed), status, context.items, context.request_id
                )
        finally:
            service.active -= 1
            context.close()
            self._report(routed, method, status, time.perf_counter() - start, context.items)
            current_request.reset(token)

    def _report(self, scope: Scope, method: str, status: int, seconds: float, items: int) -> None:
        self._service.metrics.count_response(_route(scope), status, seconds)
        code = error_code(scope)
        if code is not None:
            self._service.metrics.count_error(code)
        path = scope["raw_path"][:MAX_LOGGED_PATH].decode("ascii", "replace")
        facts = {"method": method, "path": path, "status": status, "items": items}
        facts["ms"] = round(seconds * 1e3, 1)
        text = "%(method)s %(path)s %(status)s %(ms)s ms %(items)s items"
        log.log(logging.INFO if method in WORK else logging.DEBUG, text, facts, extra=facts)


class AuthMiddleware:
    """The inner middleware: checks the API key, and ends requests that are evicted or fail."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._keys = [key.encode() for key in service.settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        response_started = False
        context = current_request.get()
        assert context is not None  # noqa: S101  # RequestMiddleware is around this one

        async def sender(message: Message) -> None:
            nonlocal response_started
            response_started = True
            context.evict = None
            await send(message)

        async def respond(error: EmbeddingError) -> None:
            note_error(scope, error)
            await error_response(error, scope)(scope, receive, sender)

        try:
            context.client = self._identify(scope)
            async with evictable(context):
                await self._app(scope, receive, sender)
        except ClientDisconnect:
            return
        except (QueueFull, Unauthorized) as error:
            await respond(error)
        except asyncio.CancelledError:
            # Only uvicorn cancels a request: it stops, and EMBEDDING_DRAIN_SEC is over.
            if response_started:
                raise
            await respond(NotReady("the server is shutting down: the request was not completed"))
        except Exception:
            log.exception("unexpected error in a request")
            if response_started:
                raise
            await respond(
                Unexpected(f"internal error; the server log has it under id {current_request_id()}")
            )

    def _identify(self, scope: Scope) -> str:
        """Who the client is: its API key's place in the setting, or else its address.

        Raises Unauthorized for a route that requires a key.
        """
        key = self._find_key(dict(scope["headers"]))
        if key is not None:
            return f"key {key}"
        if self._keys and not _is_public(scope):
            raise Unauthorized("a valid API key is required (header Authorization: Bearer <key>)")
        return _address(scope)

    def _find_key(self, headers: Mapping[bytes, bytes]) -> int | None:
        """The place of the request's API key in the setting; None if it is not in it."""
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        matches = [hmac.compare_digest(key.strip(), valid_key) for valid_key in self._keys]
        return matches.index(True) if scheme.lower() == b"bearer" and any(matches) else None


def _is_public(scope: Scope) -> bool:
    path = route_path(scope)
    # POST / embeds.
    public = path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES)
    return public and scope["method"] != "POST"


def _address(scope: Scope) -> str:
    """The peer's address, or that in X-Forwarded-For if uvicorn trusts the peer; "" for a socket
    without one."""
    client = scope.get("client")
    return client[0] if client else ""


def _route(scope: Scope) -> str:
    """The route's template: paths could make as many metric labels as there are requests."""
    route: Any = scope.get("route")
    if route is None:
        return "unknown"
    # FastAPI's scope holds the route as its router knows it: without the dialect's prefix.
    prefix = find_dialect(route_path(scope)).prefix
    # (older versions keep the prefix)
    path: str = route.path
    return path if prefix and path.startswith(f"{prefix}/") else f"{prefix}{path}"
