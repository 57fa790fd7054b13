"""Errors of the API: its own classes, their form in a dialect, and their code for the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson
from starlette.responses import Response
from starlette.types import Scope

from multimodal_embedding_serving.errors import EmbeddingError


class ErrorReply(NamedTuple):
    """An error as one dialect reports it."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = MappingProxyType({})


class BodyLate(EmbeddingError):
    """The request body did not arrive within the deadline."""

    status, code = 408, "body_late"


class MethodNotAllowed(EmbeddingError):
    """The route exists, but not for this HTTP method."""

    status, code = 405, "method_not_allowed"


class UnsupportedEncoding(EmbeddingError):
    """The body has a Content-Encoding other than gzip, or several."""

    status, code = 415, "unsupported_encoding"


class Unexpected(EmbeddingError):
    """An unexpected error: the response has only an id, with which to find it in the log."""


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


def note_error(scope: Scope, error: EmbeddingError) -> None:
    """Store the error's code in the scope for the metrics; `error_code` reads it."""
    scope["mmes.error"] = error.code


def error_code(scope: Scope) -> str | None:
    code: str | None = scope.get("mmes.error")
    return code
