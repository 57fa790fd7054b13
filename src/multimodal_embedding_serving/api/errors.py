"""The one table from errors to answers, in the native shape and in OpenAI's.

Native: `{"detail": message, "code": code, "index"?: item}` with the status of the error's class.
On /v2 the shape is Cohere's: `{"message": …}`.
On /v1 the statuses and the shape are OpenAI's, and `x-should-retry` tells its client what to do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from multimodal_embedding_serving.errors import BadRequest, EmbeddingError, NotFound, QueueFull

BUSY = (429, 503)


@dataclass(frozen=True, slots=True)
class Kind:
    """How OpenAI reports one of our codes."""

    status: int
    type: str = "invalid_request_error"
    code: str | None = None


OPENAI = {
    "model_mismatch": Kind(404, code="model_not_found"),
    "model_not_found": Kind(404, code="model_not_found"),
    "invalid_api_key": Kind(401, code="invalid_api_key"),
    "not_found": Kind(404, code="not_found"),
    "method_not_allowed": Kind(405, code="method_not_allowed"),
    "forbidden": Kind(403, "permission_error", "forbidden"),
    "body_late": Kind(408, code="body_late"),
    "queue_full": Kind(429, "rate_limit_error", "rate_limit_exceeded"),
    "not_ready": Kind(503, "service_unavailable_error", "not_ready"),
    "self_test_failed": Kind(503, "service_unavailable_error", "not_ready"),
    "deadline_exceeded": Kind(504, "timeout_error", "deadline_exceeded"),
}
"""Codes that are not listed: 400 where the caller is at fault, otherwise server_error."""


class BodyLate(EmbeddingError):
    """The request's body did not arrive within the deadline."""

    status, code = 408, "body_late"


class MethodNotAllowed(EmbeddingError):
    status, code = 405, "method_not_allowed"


class Unexpected(EmbeddingError):
    """The last resort: an id that is in the log, and nothing else."""


def answer_error(error: EmbeddingError, path: str) -> Response:
    """The response to an error, in the dialect of the path."""
    headers: dict[str, str] = {}
    if isinstance(error, QueueFull):
        headers["retry-after"] = str(math.ceil(error.retry_after))
    elif error.status == 503:
        headers["retry-after"] = "5"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if path.startswith("/v2/"):  # Cohere's shape; its statuses are ours
        return json_response({"message": str(error), "code": error.code}, error.status, headers)
    if not path.startswith("/v1/"):
        body: dict[str, Any] = {"detail": error.message, "code": error.code}
        if error.index is not None:
            body["index"] = error.index
        return json_response(body, error.status, headers)
    kind = OPENAI.get(error.code) or _by_status(error)
    if kind.status in BUSY or kind.status >= 500:
        headers["x-should-retry"] = "true" if kind.status in BUSY else "false"
    detail = {"message": str(error), "type": kind.type, "param": error.param, "code": kind.code}
    return json_response({"error": detail}, kind.status, headers)


def _by_status(error: EmbeddingError) -> Kind:
    if error.status < 500:
        return Kind(400, code=error.code)
    return Kind(error.status, "server_error", error.code)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


def note_error(scope: Scope, error: EmbeddingError) -> None:
    """Leave the error's code where `error_code` finds it: for the metrics."""
    scope["mmes.error"] = error.code


def error_code(scope: Scope) -> str | None:
    code: str | None = scope.get("mmes.error")
    return code


async def on_embedding_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EmbeddingError)  # noqa: S101  # registered for this class
    note_error(request.scope, error)
    return answer_error(error, request.url.path)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Routing's own: no such route, wrong method."""
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for this class
    message = f"{request.method} {request.url.path}: {error.detail}"
    known: dict[int, type[EmbeddingError]] = {404: NotFound, 405: MethodNotAllowed}
    refusal = known.get(error.status_code, BadRequest)(message[:500])
    note_error(request.scope, refusal)
    response = answer_error(refusal, request.url.path)
    response.headers.update(error.headers or {})
    return response
