"""Errors of the API: its own classes, what a dialect makes of one, and the code for the log."""

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
    """The request's body did not arrive within the deadline."""

    status, code = 408, "body_late"


class MethodNotAllowed(EmbeddingError):
    status, code = 405, "method_not_allowed"


class Unexpected(EmbeddingError):
    """The last resort: an id that is in the log, and nothing else."""


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, "application/json")


def note_error(scope: Scope, error: EmbeddingError) -> None:
    """Leave the error's code where `error_code` finds it: for the metrics."""
    scope["mmes.error"] = error.code


def error_code(scope: Scope) -> str | None:
    code: str | None = scope.get("mmes.error")
    return code
