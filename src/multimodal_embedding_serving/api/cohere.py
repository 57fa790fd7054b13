"""Cohere's embeddings API, version 2: POST /v2/embed (docs.cohere.com, "Embed API v2").

`texts`, `images` or `inputs` give one embedding each; one of `inputs` that holds several parts
gets the mean of their vectors at unit length. `embedding_types` asks for one form or several.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from multimodal_embedding_serving.api.disconnect import cancel_on_disconnect
from multimodal_embedding_serving.api.errors import ErrorReply, json_response
from multimodal_embedding_serving.api.native import FINGERPRINT
from multimodal_embedding_serving.api.openai_input import read_items
from multimodal_embedding_serving.api.request_body import read_json
from multimodal_embedding_serving.api.schemas import (
    CohereAnswer,
    CohereErrorAnswer,
    CohereRequest,
    OpenAIRequest,
)
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.truncation import check_truncation
from multimodal_embedding_serving.api.vectors import MAX_INLINE_NUMBERS, encode
from multimodal_embedding_serving.engine.results import EmbeddingResult, renormalize
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput
from multimodal_embedding_serving.inputs.items import Embeddable
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Vectors

ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": CohereErrorAnswer},
    "5XX": {"model": CohereErrorAnswer},
}


def cohere_routes(service: Service) -> APIRouter:
    """The route below /v2 over one service."""
    routes = APIRouter(responses=ERRORS)

    @routes.post("/embed", summary="Embed, as Cohere does", response_model=CohereAnswer)
    async def embed(request: Request) -> Response:
        engine = service.ready_engine()
        parsed = await read_json(request, service.settings, CohereRequest)
        parts, inputs = await asyncio.to_thread(_read_inputs, parsed, service.settings)
        service.require(parsed.model)
        work = engine.aembed(inputs, dimensions=parsed.output_dimension)
        results = await cancel_on_disconnect(request, work)
        if parsed.truncate is not None:
            check_truncation(results, parsed.truncate)
        vectors = fuse(np.concatenate([result.vectors for result in results]), parts)
        if vectors.size <= MAX_INLINE_NUMBERS:
            response = cohere_body(parsed, vectors, results)
        else:
            response = await asyncio.to_thread(cohere_body, parsed, vectors, results)
        return json_response(response, headers={FINGERPRINT: engine.info.fingerprint})

    return routes


def _read_inputs(parsed: CohereRequest, settings: Settings) -> tuple[list[int], list[Embeddable]]:
    """How many parts each embedding has, and the parts of all."""
    items, parts = list_items(parsed)
    searches = parsed.input_type == "search_query"
    listed = OpenAIRequest(input=items, input_type="query" if searches else "document")
    return parts, read_items(listed, settings)


def list_items(parsed: CohereRequest) -> tuple[list[Any], list[int]]:
    """The items to embed, and how many of them each embedding is made of.

    Raises InvalidInput where not exactly one of texts, images and inputs is given, or one is empty.
    """
    given = [each for each in (parsed.texts, parsed.images, parsed.inputs) if each]
    if len(given) != 1:
        raise InvalidInput("give one of texts, images and inputs, and not an empty one")
    if parsed.texts:
        return list(parsed.texts), [1] * len(parsed.texts)
    if parsed.images:
        return [{"image": image} for image in parsed.images], [1] * len(parsed.images)
    contents = [each.content for each in parsed.inputs or ()]
    for index, content in enumerate(contents):
        if not content:
            raise InvalidInput("content is empty", index=index, param="inputs")
    listed = [[each] if isinstance(each, str) else each for each in contents]
    return [part for content in listed for part in content], [len(content) for content in listed]


def fuse(vectors: Vectors, parts: Sequence[int]) -> Vectors:
    """Vectors of all parts -> one for each embedding: the mean, at unit length, of several."""
    if max(parts) == 1:
        return vectors
    edges = pairwise(accumulate(parts, initial=0))
    return renormalize(np.stack([vectors[start:end].mean(0) for start, end in edges]))


def cohere_body(
    parsed: CohereRequest, vectors: Vectors, results: Sequence[EmbeddingResult]
) -> dict[str, Any]:
    """The JSON of an answer."""
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
    """Cohere's shape with the status of the error's class."""
    return ErrorReply(error.status, {"message": str(error), "code": error.code})
