"""OpenAI's embeddings API, extended with image and video items."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from multimodal_embedding_serving.api.chat_input import (
    ChatRequest,
    choose_body,
    list_parts,
    locate,
)
from multimodal_embedding_serving.api.cohere import fuse
from multimodal_embedding_serving.api.disconnect import cancel_on_disconnect
from multimodal_embedding_serving.api.errors import json_response
from multimodal_embedding_serving.api.multipart import FORM, read_form
from multimodal_embedding_serving.api.openai_input import MAX_INLINE_ITEMS, read_items
from multimodal_embedding_serving.api.openai_options import VectorOptions, read_options
from multimodal_embedding_serving.api.request_body import read_body, read_chosen
from multimodal_embedding_serving.api.rerank import with_rerank
from multimodal_embedding_serving.api.schemas import (
    OpenAIAnswer,
    OpenAIErrorAnswer,
    OpenAIModel,
    OpenAIModels,
    OpenAIRequest,
)
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.truncation import check_truncation
from multimodal_embedding_serving.api.vectors import (
    FINGERPRINT,
    MAX_INLINE_NUMBERS,
    encode_as,
    raw_response,
)
from multimodal_embedding_serving.engine.loader import ModelInfo
from multimodal_embedding_serving.engine.results import EmbeddingResult
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.inputs.items import Embeddable
from multimodal_embedding_serving.settings import Settings

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIErrorAnswer} for status in (400, 401, 403, 404, 429, 500, 503, 504)
}


def openai_routes(service: Service) -> APIRouter:
    """The routes under /v1, over one service."""
    routes = APIRouter(responses=ERROR_RESPONSES, tags=["OpenAI"])

    @routes.post(
        "/embeddings", summary="Embed strings, images and videos", response_model=OpenAIAnswer
    )
    async def embeddings(request: Request) -> Response:
        service.ready_engine()
        settings = service.settings
        content_type = request.headers.get("content-type", "")
        if content_type[: len(FORM)].lower() == FORM:
            # The body is not kept: its parts are copies, and the request is charged for it once.
            parsed, inputs = await asyncio.to_thread(
                read_form, content_type, await read_body(request, settings), settings
            )
            return await _embed(request, service, parsed, inputs)
        parsed = await read_chosen(request, settings, choose_body)
        return await embed_parsed(request, service, parsed)

    @routes.get(
        "/models", summary="List the names of the loaded model", response_model=OpenAIModels
    )
    async def models() -> Response:
        service.ready_engine()
        card = _model_card(service)
        names = [card["id"], *service.settings.aliases]
        return json_response({"object": "list", "data": [{**card, "id": name} for name in names]})

    @routes.get(
        "/models/{model:path}",
        summary="Show the loaded model by one of its names",
        response_model=OpenAIModel,
    )
    async def model(model: str) -> Response:
        service.ready_engine()
        service.require(model)
        return json_response({**_model_card(service), "id": model})

    return with_rerank(routes, service, "OpenAI")


async def embed_parsed(request: Request, service: Service, parsed: OpenAIRequest) -> Response:
    """The response to a JSON body. Raises NotReady and the errors of the engine."""
    if isinstance(parsed, ChatRequest):
        items, parts = list_parts(parsed)
        try:
            inputs = await _read_items(items, service.settings)
            return await _embed(request, service, items, inputs, parts)
        except EmbeddingError as error:
            raise locate(error, parts) from None
    return await _embed(request, service, parsed, await _read_items(parsed, service.settings))


async def _embed(
    request: Request,
    service: Service,
    parsed: OpenAIRequest,
    inputs: Sequence[Embeddable],
    parts: Sequence[int] | None = None,
) -> Response:
    """`parts`: how many inputs each vector is made of; None: each input has its own vectors."""
    engine = service.ready_engine()
    service.require(parsed.model)
    options = read_options(parsed)
    work = engine.embed_inputs(inputs, dimensions=options.dimensions)
    results = await cancel_on_disconnect(request, work)
    check_truncation(results, parsed.truncate)
    check_truncation(results, parsed.truncation, "truncation")
    if parts is not None:
        results = [_fused(results, parts)]
    if sum(result.vectors.size for result in results) <= MAX_INLINE_NUMBERS:
        return _respond(request, parsed, results, engine.info)
    return await asyncio.to_thread(_respond, request, parsed, results, engine.info)


async def _read_items(parsed: OpenAIRequest, settings: Settings) -> list[Embeddable]:
    """The inputs of a body, read on a thread if that may take longer than a millisecond."""
    items: list[Any] = parsed.input if isinstance(parsed.input, list) else []
    accepted = settings.token_ids != "reject"  # noqa: S105  # a setting's value
    token_ids = accepted and bool(items) and not isinstance(items[0], str | dict)
    if token_ids or len(items) > MAX_INLINE_ITEMS:
        return await asyncio.to_thread(read_items, parsed, settings)
    return read_items(parsed, settings)


def _respond(
    request: Request,
    parsed: OpenAIRequest,
    results: Sequence[EmbeddingResult],
    info: ModelInfo,
) -> Response:
    headers = {FINGERPRINT: info.fingerprint}
    vectors = [result.vectors for result in results]
    raw = raw_response(request.headers.get("accept", ""), vectors, headers)
    if raw is not None:
        return raw
    body = openai_body(results, read_options(parsed), parsed.model or info.id)
    return json_response(body, headers=headers)


def _fused(results: Sequence[EmbeddingResult], parts: Sequence[int]) -> EmbeddingResult:
    return EmbeddingResult(
        vectors=fuse(np.concatenate([result.vectors for result in results]), parts),
        many=True,
        tokens=sum(result.tokens for result in results),
        truncated=any(result.truncated for result in results),
    )


def _model_card(service: Service) -> dict[str, Any]:
    info = service.ready_engine().info
    return {
        "id": info.id,
        "object": "model",
        "created": service.created,
        "owned_by": info.family,
        "dimension": info.dimension,
        "modalities": sorted(info.modalities),
        "fingerprint": info.fingerprint,
        "aliases": [info.id.rpartition("/")[2], *service.settings.aliases],
        "architecture": {"input_modalities": sorted(info.modalities, reverse=True)},
        **({"parity": dict(info.parity)} if info.parity else {}),
    }


def openai_body(
    results: Sequence[EmbeddingResult], options: VectorOptions, model: str
) -> dict[str, Any]:
    """The JSON of the response: one vector per item, in order."""
    vectors = np.concatenate([result.vectors for result in results])
    tokens = sum(result.tokens for result in results)
    usage: dict[str, Any] = {"prompt_tokens": tokens, "total_tokens": tokens}
    if any(result.truncated for result in results):
        usage["truncated"] = True
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": encode_as(vector, options.numbers, packed=options.packed),
        }
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": model, "usage": usage}
