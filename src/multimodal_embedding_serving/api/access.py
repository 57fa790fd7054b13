"""What every request passes, as plain ASGI: its id, the key, the count, and the last resort."""

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

from multimodal_embedding_serving.api.errors import Unexpected, answer_error, error_code, note_error
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.errors import EmbeddingError, Unauthorized

log = logging.getLogger(__name__)

OPEN = frozenset(("/", "/live", "/ready", "/health"))
OPEN_BELOW = "/playground/"
"""Routes that need no key: probes, and the static page, which asks for the key itself."""

_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")


class Access:
    """The outermost of the app's own layers."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service
        self._keys = [key.encode() for key in service.settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        started, status = time.perf_counter(), 0

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id)]
            await send(message)

        async def answer(error: EmbeddingError) -> None:
            note_error(scope, error)
            await answer_error(error, scope["path"])(scope, receive, sender)

        self._service.active += 1
        try:
            if self._admits(scope["path"], headers):
                await self._app(scope, receive, sender)
            else:
                await answer(Unauthorized("a valid API key is needed: Authorization: Bearer …"))
        except ClientDisconnect:
            status = 499  # nobody is there to be answered; counted as nginx does
        except Exception:
            log.exception("request %s failed", request_id.decode())
            if status:
                raise
            await answer(Unexpected(f"internal error; its id is {request_id.decode()}"))
        finally:
            self._service.active -= 1
            self._count(scope, status, time.perf_counter() - started)

    def _admits(self, path: str, headers: Mapping[bytes, bytes]) -> bool:
        if not self._keys or path in OPEN or path.startswith(OPEN_BELOW):
            return True
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        matches = [hmac.compare_digest(key.strip(), known) for known in self._keys]
        return scheme.lower() == b"bearer" and any(matches)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        """Under the route's template: paths would make as many labels as there are requests."""
        route: Any = scope.get("route")
        self._service.metrics.answered(getattr(route, "path", "unknown"), status, seconds)
        code = error_code(scope)
        if code is not None:
            self._service.metrics.failed(code)
