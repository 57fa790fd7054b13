"""What every request passes, as plain ASGI: its id, its account, its line in the log, the count;
inside of that, the key and the last resort. Between the two lies CORS, so that a page can read a
refusal."""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multimodal_embedding_serving.api.dialects import answer_error
from multimodal_embedding_serving.api.errors import Unexpected, error_code, note_error
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.errors import EmbeddingError, Unauthorized
from multimodal_embedding_serving.monitoring.logs import current_request_id
from multimodal_embedding_serving.monitoring.request import RequestContext, current_request
from multimodal_embedding_serving.monitoring.tracing import name_request, request_span

log = logging.getLogger(__name__)

OPEN = frozenset(("/", "/live", "/ready", "/health"))
OPEN_BELOW = "/playground/"
"""Routes that need no key: probes, and the static page, which asks for the key itself."""

CLIENT_GONE = 499
"""Nobody is there to be answered; counted as nginx does."""
SHOWN = 200
"""Characters of a path in the log."""

_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class Access:
    """The outermost of the app's own layers."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, service = scope["headers"], self._service
        given = next((value for name, value in headers if name == b"x-request-id"), b"")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        account = RequestContext(service.memory_quota, request_id.decode())
        started, status = time.perf_counter(), CLIENT_GONE

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        token = current_request.set(account)
        service.active += 1
        try:
            with request_span(scope["method"], headers) as span:
                await self._app(scope, receive, sender)
                name_request(
                    span, scope["method"], _route(scope), status, account.items, account.request_id
                )
        finally:
            service.active -= 1
            account.close()
            self._tell(scope, status, time.perf_counter() - started, account.items)
            current_request.reset(token)

    def _tell(self, scope: Scope, status: int, seconds: float, items: int) -> None:
        self._service.metrics.count_response(_route(scope), status, seconds)
        code = error_code(scope)
        if code is not None:
            self._service.metrics.count_error(code)
        path = scope["raw_path"][:SHOWN].decode("ascii", "replace")
        facts = {"method": scope["method"], "path": path, "status": status, "items": items}
        facts["ms"] = round(seconds * 1e3, 1)
        text = "%(method)s %(path)s %(status)s %(ms)s ms %(items)s items"
        log.info(text, facts, extra=facts)


class Gate:
    """The innermost layer: lets in who has a key, and answers what nothing else has answered."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._keys = [key.encode() for key in service.settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def sender(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        async def answer(error: EmbeddingError) -> None:
            note_error(scope, error)
            await answer_error(error, scope["path"])(scope, receive, sender)

        try:
            if self._admits(scope["path"], dict(scope["headers"])):
                await self._app(scope, receive, sender)
            else:
                await answer(Unauthorized("a valid API key is needed: Authorization: Bearer …"))
        except ClientDisconnect:
            return
        except Exception:
            log.exception("a request failed")
            if begun:
                raise
            await answer(Unexpected(f"internal error; its id is {current_request_id()}"))

    def _admits(self, path: str, headers: Mapping[bytes, bytes]) -> bool:
        if not self._keys or path in OPEN or path.startswith(OPEN_BELOW):
            return True
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        matches = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        return scheme.lower() == b"bearer" and any(matches)


def _route(scope: Scope) -> str:
    """The route's template: paths would make as many labels as there are requests."""
    route: Any = scope.get("route")
    return getattr(route, "path", "unknown")
