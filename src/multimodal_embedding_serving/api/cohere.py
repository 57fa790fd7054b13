"""Cohere's embeddings API, version 2: POST /v2/embed (docs.cohere.com, "Embed API v2").

Each element of `texts`, `images` or `inputs` gets one embedding; an element of `inputs` that has
several parts gets the mean of their vectors, renormalized. `embedding_types` selects the encodings.
"""

from __future__ import annotations

import asyncio
import uuid
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from multimodal_embedding_serving.api.disconnect import cancel_on_disconnect
from multimodal_embedding_serving.api.errors import ErrorReply, json_response
from multimodal_embedding_serving.api.openai_input import MAX_INLINE_ITEMS, read_items
from multimodal_embedding_serving.api.request_body import read_json
from multimodal_embedding_serving.api.rerank import with_rerank
from multimodal_embedding_serving.api.schemas import (
    CohereAnswer,
    CohereErrorAnswer,
    CohereRequest,
    OpenAIRequest,
)
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.truncation import check_truncation
from multimodal_embedding_serving.api.vectors import FINGERPRINT, MAX_INLINE_NUMBERS, encode
from multimodal_embedding_serving.engine.results import EmbeddingResult, renormalize
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput
from multimodal_embedding_serving.inputs.items import Embeddable, InputLimits
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Vectors

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": CohereErrorAnswer},
    "5XX": {"model": CohereErrorAnswer},
}


def cohere_routes(service: Service) -> APIRouter:
    """The route under /v2, over one service."""
    routes = APIRouter(responses=ERROR_RESPONSES, tags=["Cohere"])

    @routes.post(
        "/embed", summary="Embed texts, images or inputs of both", response_model=CohereAnswer
    )
    async def embed(request: Request) -> Response:
        engine = service.ready_engine()
        parsed = await read_json(request, service.settings, CohereRequest)
        given = parsed.texts or parsed.images or parsed.inputs or ()
        InputLimits.of(service.settings).check(len(given))
        items, parts = list_items(parsed)
        try:
            inputs = await read_inputs(parsed, items, service.settings)
            service.require(parsed.model)
            work = engine.embed_inputs(inputs, dimensions=parsed.output_dimension)
            results = await cancel_on_disconnect(request, work)
            check_truncation(results, parsed.truncate)
        except EmbeddingError as error:
            raise locate(error, parsed, parts) from None
        vectors = fuse(np.concatenate([result.vectors for result in results]), parts)
        headers = {FINGERPRINT: engine.info.fingerprint}
        if vectors.size <= MAX_INLINE_NUMBERS:
            return _respond(parsed, vectors, results, headers)
        return await asyncio.to_thread(_respond, parsed, vectors, results, headers)

    return with_rerank(routes, service, "Cohere")


def _respond(
    parsed: CohereRequest,
    vectors: Vectors,
    results: Sequence[EmbeddingResult],
    headers: dict[str, str],
) -> Response:
    return json_response(cohere_body(parsed, vectors, results), headers=headers)


async def read_inputs(
    parsed: CohereRequest, items: list[Any], settings: Settings
) -> list[Embeddable]:
    """The items as inputs of the engine; all texts but those of a search query are documents."""
    is_query = parsed.input_type == "search_query"
    request = OpenAIRequest(
        input=items,
        input_type="query" if is_query else "document",
        modality="text" if parsed.texts else None,  # a text is never media, whatever it holds
    )
    if len(items) <= MAX_INLINE_ITEMS:
        return read_items(request, settings)
    return await asyncio.to_thread(read_items, request, settings)


def list_items(parsed: CohereRequest) -> tuple[list[Any], list[int]]:
    """The items to embed, and how many of them each embedding is made of.

    Raises InvalidInput unless exactly one of texts, images and inputs has items, or if an element
    of inputs has no content.
    """
    sources = [each for each in (parsed.texts, parsed.images, parsed.inputs) if each]
    if len(sources) != 1:
        raise InvalidInput(
            "exactly one of texts, images and inputs is required, and it must not be empty"
        )
    if parsed.texts:
        return list(parsed.texts), [1] * len(parsed.texts)
    if parsed.images:
        return [{"image": image} for image in parsed.images], [1] * len(parsed.images)
    contents = [each.content for each in parsed.inputs or ()]
    for index, content in enumerate(contents):
        if not content:
            field = f"inputs.{index}.content"
            message = f"inputs[{index}].content: must not be empty"
            raise InvalidInput(message, index=index, param=field)
    lists = [[each] if isinstance(each, str) else each for each in contents]
    return [part for content in lists for part in content], [len(content) for content in lists]


def locate(error: EmbeddingError, parsed: CohereRequest, parts: Sequence[int]) -> EmbeddingError:
    """The same error, with the item named as the client wrote it: `inputs[1].content[0]: …`."""
    if error.index is None:
        return error
    if not parsed.inputs:
        error.param = "texts" if parsed.texts else "images"
        return error
    starts = list(accumulate(parts, initial=0))
    index = bisect(starts, error.index) - 1
    is_list = isinstance(parsed.inputs[index].content, list)
    part = f"[{error.index - starts[index]}]" if is_list else ""
    error.message = f"inputs[{index}].content{part}: {error.message}"
    error.index, error.param = index, f"inputs.{index}.content"
    return error


def fuse(vectors: Vectors, parts: Sequence[int]) -> Vectors:
    """Vectors of all parts -> one per embedding: the renormalized mean where it has several."""
    if max(parts) == 1:
        return vectors
    edges = pairwise(accumulate(parts, initial=0))
    return renormalize(np.stack([vectors[start:end].mean(0) for start, end in edges]))


def cohere_body(
    parsed: CohereRequest, vectors: Vectors, results: Sequence[EmbeddingResult]
) -> dict[str, Any]:
    """The JSON of a response."""
    kinds = dict.fromkeys(parsed.embedding_types or ("float",))
    tokens = sum(result.tokens for result in results)
    billed = {"images": len(parsed.images)} if parsed.images else {"input_tokens": tokens}
    return {
        "id": str(uuid.uuid4()),
        "embeddings": {kind: [encode(vector, kind) for vector in vectors] for kind in kinds},
        "texts": parsed.texts or [],
        "meta": {"api_version": {"version": "2"}, "billed_units": billed},
        "response_type": "embeddings_by_type",
    }


def cohere_error(error: EmbeddingError) -> ErrorReply:
    """The error in Cohere's format, with the HTTP status of its class."""
    return ErrorReply(error.status, {"message": str(error), "code": error.code})
