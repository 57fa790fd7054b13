"""Errors in OpenAI's format: its statuses, its body, and `x-should-retry` for its client."""

from __future__ import annotations

from dataclasses import dataclass

from multimodal_embedding_serving.api.errors import ErrorReply
from multimodal_embedding_serving.errors import EmbeddingError

RETRYABLE = (429, 503)


@dataclass(frozen=True, slots=True)
class OpenAIError:
    """How OpenAI's API reports one of our codes."""

    status: int
    type: str = "invalid_request_error"
    code: str | None = None


ERRORS = {
    "model_mismatch": OpenAIError(404, code="model_not_found"),
    "model_not_found": OpenAIError(404, code="model_not_found"),
    "invalid_api_key": OpenAIError(401, code="invalid_api_key"),
    "not_found": OpenAIError(404, code="not_found"),
    "method_not_allowed": OpenAIError(405, code="method_not_allowed"),
    "forbidden": OpenAIError(403, "permission_error", "forbidden"),
    "unsupported_encoding": OpenAIError(415, code="unsupported_encoding"),
    "body_late": OpenAIError(408, code="body_late"),
    "queue_full": OpenAIError(429, "rate_limit_error", "rate_limit_exceeded"),
    "not_ready": OpenAIError(503, "service_unavailable_error", "not_ready"),
    "self_test_failed": OpenAIError(503, "service_unavailable_error", "not_ready"),
    "deadline_exceeded": OpenAIError(504, "timeout_error", "deadline_exceeded"),
    "host_not_allowed": OpenAIError(403, "permission_error", "host_not_allowed"),
    "cross_site": OpenAIError(403, "permission_error", "cross_site"),
}
"""Codes that are not listed become 400 for 4xx, and server_error for 5xx."""


def openai_error(error: EmbeddingError) -> ErrorReply:
    """OpenAI's `error`; `detail` beside it is what the clients of Voyage and Jina report."""
    kind = ERRORS.get(error.code) or _by_status(error)
    headers = {}
    if kind.status in RETRYABLE or kind.status >= 500:
        headers["x-should-retry"] = "true" if kind.status in RETRYABLE else "false"
    detail = {"message": str(error), "type": kind.type, "param": error.param, "code": kind.code}
    return ErrorReply(kind.status, {"error": detail, "detail": str(error)}, headers)


def _by_status(error: EmbeddingError) -> OpenAIError:
    if error.status < 500:
        return OpenAIError(400, code=error.code)
    return OpenAIError(error.status, "server_error", error.code)
