"""The API dialects, one row each, and error responses in the dialect of the requested path."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from multimodal_embedding_serving.api.chat_input import ChatRequest
from multimodal_embedding_serving.api.cohere import cohere_error, cohere_routes
from multimodal_embedding_serving.api.cohere_v1 import cohere_v1_routes
from multimodal_embedding_serving.api.errors import (
    ErrorReply,
    MethodNotAllowed,
    UnsupportedEncoding,
    json_response,
    note_error,
)
from multimodal_embedding_serving.api.immich import SCHEMA as IMMICH_SCHEMA
from multimodal_embedding_serving.api.immich import immich_routes
from multimodal_embedding_serving.api.llamacpp import (
    LlamaRequest,
    llamacpp_error,
    llamacpp_routes,
)
from multimodal_embedding_serving.api.multipart import FORM, SCHEMA
from multimodal_embedding_serving.api.native import native_error, native_routes
from multimodal_embedding_serving.api.ollama import (
    OllamaName,
    OllamaPrompt,
    OllamaRequest,
    ollama_error,
    ollama_routes,
)
from multimodal_embedding_serving.api.openai import openai_routes
from multimodal_embedding_serving.api.openai_errors import openai_error
from multimodal_embedding_serving.api.paths import answer_path
from multimodal_embedding_serving.api.schemas import (
    CohereRequest,
    EmbeddingsRequest,
    OpenAIRequest,
)
from multimodal_embedding_serving.api.scoring_schemas import (
    ClassifyRequest,
    RerankRequest,
    ScoreRequest,
)
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.tei import TeiRequest, TeiSimilarity, tei_error, tei_routes
from multimodal_embedding_serving.api.voyage import VoyageRequest, voyage_routes
from multimodal_embedding_serving.api.weaviate import (
    WeaviateRequest,
    weaviate_error,
    weaviate_routes,
)
from multimodal_embedding_serving.errors import BadRequest, EmbeddingError, NotFound, QueueFull
from multimodal_embedding_serving.settings import Settings

JSON = "application/json"
RequestBody = Mapping[str, type[BaseModel] | UnionType | Mapping[str, Any]]
"""Media type -> the model (or a union of models) or the JSON schema of a body."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """One API: routes under a prefix, and the format of their errors."""

    prefix: str
    routes: Callable[[Service], APIRouter]
    error: Callable[[EmbeddingError], ErrorReply]
    bodies: Mapping[str, RequestBody]
    """Path under the prefix -> its body, for the OpenAPI document: FastAPI does not know the
    bodies, because the routes read them themselves."""
    application: str = ""
    """Its name in EMBEDDING_DIALECTS; "": it is always served."""
    paths: frozenset[str] = frozenset()
    """Its route paths, if another dialect has the prefix, too: that one has all other paths."""


DIALECTS = (
    Dialect(
        "",
        native_routes,
        native_error,
        {
            "/embeddings": {JSON: EmbeddingsRequest | OpenAIRequest},
            "/classify": {JSON: ClassifyRequest},
            "/score": {JSON: ScoreRequest},
        },
    ),
    Dialect(
        "/v1",
        openai_routes,
        openai_error,
        {
            "/embeddings": {JSON: OpenAIRequest | ChatRequest, FORM: SCHEMA},
            "/rerank": {JSON: RerankRequest},
        },
    ),
    Dialect(
        "/v2",
        cohere_routes,
        cohere_error,
        {"/embed": {JSON: CohereRequest}, "/rerank": {JSON: RerankRequest}},
    ),
    Dialect(
        "/v1",
        cohere_v1_routes,
        cohere_error,
        {"/embed": {JSON: CohereRequest}},
        paths=frozenset(("/v1/embed",)),
    ),
    Dialect(
        "",
        immich_routes,
        native_error,
        {"/predict": {FORM: IMMICH_SCHEMA}},
        application="immich",
        paths=frozenset(("/ping", "/predict")),
    ),
    Dialect(
        "",
        weaviate_routes,
        weaviate_error,
        {"/vectorize": {JSON: WeaviateRequest}},
        application="weaviate",
        paths=frozenset(("/vectorize", "/meta", "/.well-known/ready", "/.well-known/live")),
    ),
    Dialect(
        "/api",
        ollama_routes,
        ollama_error,
        {
            "/embed": {JSON: OllamaRequest},
            "/embeddings": {JSON: OllamaPrompt},
            "/show": {JSON: OllamaName},
        },
        application="ollama",
    ),
    Dialect(
        "",
        tei_routes,
        tei_error,
        {
            "/": {JSON: TeiRequest},
            "/embed": {JSON: TeiRequest},
            "/similarity": {JSON: TeiSimilarity},
        },
        application="tei",
        paths=frozenset(("/embed", "/similarity", "/info")),
    ),
    Dialect(
        "/v1",
        voyage_routes,
        openai_error,
        {"/multimodalembeddings": {JSON: VoyageRequest}},
        application="voyage",
        paths=frozenset(("/v1/multimodalembeddings",)),
    ),
    Dialect(
        "",
        llamacpp_routes,
        llamacpp_error,
        {"/embedding": {JSON: LlamaRequest}},
        application="llamacpp",
        paths=frozenset(("/embedding", "/props")),
    ),
)
"""The first, native dialect has all paths that no other has, by its prefix or by name."""


def served_dialects(settings: Settings) -> Iterator[Dialect]:
    """All but the applications that EMBEDDING_DIALECTS leaves out."""
    return (
        each for each in DIALECTS if not each.application or each.application in settings.dialects
    )


def find_dialect(path: str) -> Dialect:
    """The dialect that names the route path, or else has the longest prefix that contains it."""
    for each in DIALECTS:
        if path in each.paths:
            return each
    whole = (each for each in DIALECTS if not each.paths)
    return max(whole, key=lambda each: len(each.prefix) * path.startswith(f"{each.prefix}/"))


def error_response(error: EmbeddingError, scope: Scope) -> Response:
    """The response for an error, in the dialect of the request."""
    reply = find_dialect(answer_path(scope)).error(error)
    headers: dict[str, str] = {}
    if isinstance(error, QueueFull):
        headers["retry-after"] = str(math.ceil(error.retry_after))
    elif error.status == 503:
        headers["retry-after"] = "5"
    if isinstance(error, UnsupportedEncoding):
        headers["accept-encoding"] = "gzip"
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return json_response(reply.body, reply.status, {**headers, **reply.headers})


async def on_embedding_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EmbeddingError)  # noqa: S101  # registered for this class
    note_error(request.scope, error)
    return error_response(error, request.scope)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Errors of the router: no such route, wrong method."""
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for this class
    headers = dict(error.headers or {})
    methods = headers.get("Allow", "").replace("GET", "GET, HEAD")
    typed = _router_error(error, f"{request.method} {request.url.path}"[:300], methods)
    note_error(request.scope, typed)
    response = error_response(typed, request.scope)
    if methods:
        headers["Allow"] = methods
    response.headers.update(headers)
    return response


def _router_error(error: HTTPException, request: str, methods: str) -> EmbeddingError:
    if error.status_code == 405:
        return MethodNotAllowed(f"{request}: this route accepts {methods} only")
    if error.status_code != 404:
        return BadRequest(f"{request}: {error.detail}")
    if "/v1/v1" in request:
        return NotFound(f"{request}: the path has /v1 twice; remove it from the client's base URL")
    return NotFound(f"{request}: no such route; see /docs for all routes")
