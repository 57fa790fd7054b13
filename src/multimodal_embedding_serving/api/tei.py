"""Text Embeddings Inference's own routes, which clients of Hugging Face's endpoints use, too.

`normalize` has no effect: vectors have unit length. `POST /` takes what huggingface_hub's and
Haystack's clients send to the address of an endpoint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib.metadata import version
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from starlette.responses import Response

from multimodal_embedding_serving.api.embedding import embed, vectors_response
from multimodal_embedding_serving.api.errors import ErrorReply, json_response
from multimodal_embedding_serving.api.openai_input import read_items
from multimodal_embedding_serving.api.paths import answer_as
from multimodal_embedding_serving.api.request_body import read_chosen, read_json
from multimodal_embedding_serving.api.schemas import Dimensions, OpenAIRequest, Strings
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.truncation import check_truncation
from multimodal_embedding_serving.api.vectors import FINGERPRINT
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput
from multimodal_embedding_serving.inputs.items import InputLimits, Role, Texts
from multimodal_embedding_serving.inputs.kinds import WireModel

EMBED_PATH = "/embed"
ROLES: Mapping[str, Role] = {"query": "query", "document": "document", "passage": "document"}
"""The names of prompts that a client may ask for, and the role that a text has by them."""
TEXTS: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}


class TeiOptions(WireModel):
    truncate: bool | None = None
    """False rejects a text that exceeds the model's maximum length."""
    truncation_direction: Literal["right", "Right"] | None = None
    prompt_name: Literal["query", "document", "passage"] | None = None


class TeiRequest(TeiOptions):
    """POST /embed, and POST / with the same body."""

    inputs: Annotated[Any, WithJsonSchema(TEXTS)]
    """A string, or a list of strings."""
    dimensions: Dimensions = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"inputs": "a cat"}, {"inputs": ["a cat", "a dog"], "truncate": True}]
        }
    )


class TeiSentences(WireModel):
    source_sentence: str
    sentences: Annotated[Strings, Field(min_length=1)]


class TeiSimilarity(WireModel):
    """POST /similarity, and POST / with the same body."""

    inputs: TeiSentences
    parameters: TeiOptions | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"inputs": {"source_sentence": "a cat", "sentences": ["a kitten"]}},
                {"inputs": {"source_sentence": "a dog", "sentences": ["a cat", "a puppy"]}},
            ]
        }
    )


class ZeroShot(WireModel):
    """What huggingface_hub sends for zero-shot classification; it is rejected."""

    inputs: Any = None


class TeiErrorAnswer(BaseModel):
    error: str
    error_type: str


class TeiRoutes:
    """The routes of Text Embeddings Inference over one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        error: dict[str, Any] = {"model": TeiErrorAnswer}
        self.router = APIRouter(responses={"4XX": error, "5XX": error}, tags=["Applications"])
        self.router.post(
            EMBED_PATH, summary="Embed texts, as TEI does", response_model=list[list[float]]
        )(self.embed)
        self.router.post(
            "/", summary="Embed or compare texts, for clients of Hugging Face's endpoints"
        )(self.endpoint)
        self.router.post(
            "/similarity", summary="Compare texts, as TEI does", response_model=list[float]
        )(self.similarity)
        self.router.get("/info", summary="Describe the model, as TEI does")(self.info)

    async def embed(self, request: Request) -> Response:
        self.service.ready_engine()
        return await self._embed(
            request, await read_json(request, self.service.settings, TeiRequest)
        )

    async def similarity(self, request: Request) -> Response:
        self.service.ready_engine()
        parsed = await read_json(request, self.service.settings, TeiSimilarity)
        return await self._compare(request, parsed)

    async def endpoint(self, request: Request) -> Response:
        answer_as(request.scope, EMBED_PATH)
        self.service.ready_engine()
        parsed = await read_chosen(request, self.service.settings, _choose)
        if isinstance(parsed, TeiSimilarity):
            return await self._compare(request, parsed)
        if isinstance(parsed, TeiRequest):
            return await self._embed(request, parsed)
        raise InvalidInput(
            "parameters.candidate_labels: zero-shot classification is not supported here",
            param="parameters.candidate_labels",
        )

    async def info(self) -> Response:
        settings, info = self.service.settings, self.service.ready_engine().info
        length = info.text_length or 0
        return json_response(
            {
                "model_id": info.id,
                "model_sha": None,
                "model_dtype": info.precision,
                "served_model_name": info.id,
                "model_type": {"embedding": {"pooling": "cls"}},
                "max_concurrent_requests": settings.queue_limit,
                "max_input_length": length,
                "max_batch_tokens": length * settings.max_items,
                "max_batch_requests": None,
                "max_client_batch_size": settings.max_items,
                "auto_truncate": True,
                "tokenization_workers": settings.worker_count,
                "version": version("multimodal-embedding-serving"),
                "sha": None,
                "docker_label": None,
            }
        )

    async def _embed(self, request: Request, parsed: TeiRequest) -> Response:
        items = OpenAIRequest(input=parsed.inputs, modality="text", input_type=parsed.prompt_name)
        try:
            inputs = await asyncio.to_thread(read_items, items, self.service.settings)
        except EmbeddingError as error:
            error.message = error.message.replace("input ", "inputs ", 1)
            error.param = "inputs"
            raise
        vectors, results = await embed(
            request, self.service, inputs, dimensions=parsed.dimensions, field="inputs"
        )
        check_truncation(results, parsed.truncate)
        return await vectors_response(self.service, vectors, lambda rows: rows)

    async def _compare(self, request: Request, parsed: TeiSimilarity) -> Response:
        options = parsed.parameters or TeiOptions()
        texts = [parsed.inputs.source_sentence, *parsed.inputs.sentences]
        InputLimits.of(self.service.settings).check(len(texts))
        role = ROLES[options.prompt_name] if options.prompt_name else None
        vectors, results = await embed(request, self.service, [Texts(texts, role)], field="inputs")
        check_truncation(results, options.truncate)
        cosines = (vectors[1:] @ vectors[0]).tolist()
        headers = {FINGERPRINT: self.service.ready_engine().info.fingerprint}
        return json_response(cosines, headers=headers)


def _choose(body: Mapping[str, Any]) -> type[TeiRequest | TeiSimilarity | ZeroShot]:
    """What a body that was sent to the address of an endpoint asks for."""
    parameters, inputs = body.get("parameters"), body.get("inputs")
    if isinstance(parameters, dict) and "candidate_labels" in parameters:
        return ZeroShot
    return TeiSimilarity if isinstance(inputs, dict) else TeiRequest


def tei_routes(service: Service) -> APIRouter:
    return TeiRoutes(service).router


def tei_error(error: EmbeddingError) -> ErrorReply:
    """`{"error", "error_type"}` with TEI's types; what is wrong with a body is a 422."""
    status = 422 if error.status == 400 else error.status
    types = {424: "Backend", 429: "Overloaded", 503: "Unhealthy"}
    kind = types.get(status, "Validation" if status < 500 else "Backend")
    return ErrorReply(status, {"error": str(error), "error_type": kind})
