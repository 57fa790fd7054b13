"""Errors as OpenAI reports them: its statuses, its shape, and `x-should-retry` for its client."""

from __future__ import annotations

from dataclasses import dataclass

from multimodal_embedding_serving.api.errors import ErrorReply
from multimodal_embedding_serving.errors import EmbeddingError

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


def openai_error(error: EmbeddingError) -> ErrorReply:
    kind = OPENAI.get(error.code) or _by_status(error)
    headers = {}
    if kind.status in BUSY or kind.status >= 500:
        headers["x-should-retry"] = "true" if kind.status in BUSY else "false"
    detail = {"message": str(error), "type": kind.type, "param": error.param, "code": kind.code}
    return ErrorReply(kind.status, {"error": detail}, headers)


def _by_status(error: EmbeddingError) -> Kind:
    if error.status < 500:
        return Kind(400, code=error.code)
    return Kind(error.status, "server_error", error.code)
