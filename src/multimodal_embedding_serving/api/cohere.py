"""Cohere's embeddings API, version 2: POST /v2/embed (docs.cohere.com, "Embed API v2").

`texts`, `images` or `inputs` give one embedding each; one of `inputs` that holds several parts
gets the mean of their vectors at unit length. `embedding_types` asks for one form or several.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from multimodal_embedding_serving.api.disconnect import cancel_on_disconnect
from multimodal_embedding_serving.api.errors import ErrorReply, json_response
from multimodal_embedding_serving.api.native import FINGERPRINT
from multimodal_embedding_serving.api.openai_input import read_items
from multimodal_embedding_serving.api.request_body import parse_body, validate
from multimodal_embedding_serving.api.schemas import (
    CohereAnswer,
    CohereErrorAnswer,
    CohereRequest,
    OpenAIRequest,
)
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.truncation import check_truncation
from multimodal_embedding_serving.api.vectors import encode
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
        parse = partial(_parse, service.settings)
        wanted, parts, inputs = await parse_body(request, service.settings, parse)
        service.require(wanted.model)
        work = engine.aembed(inputs, dimensions=wanted.output_dimension)
        answers = await cancel_on_disconnect(request, work)
        check_truncation(answers, wanted.truncate)
        vectors = fuse(np.concatenate([answer.vectors for answer in answers]), parts)
        body = cohere_body(wanted, vectors, answers)
        return json_response(body, headers={FINGERPRINT: engine.info.fingerprint})

    return routes


def _parse(settings: Settings, body: bytes) -> tuple[CohereRequest, list[int], list[Embeddable]]:
    wanted = validate(CohereRequest, body)
    items, parts = list_items(wanted)
    searches = wanted.input_type == "search_query"
    listed = OpenAIRequest(input=items, input_type="query" if searches else "document")
    return wanted, parts, read_items(listed, settings)


def list_items(wanted: CohereRequest) -> tuple[list[Any], list[int]]:
    """The items to embed, and how many of them each embedding is made of.

    Raises InvalidInput where not exactly one of texts, images and inputs is given, or one is empty.
    """
    given = [each for each in (wanted.texts, wanted.images, wanted.inputs) if each]
    if len(given) != 1:
        raise InvalidInput("give one of texts, images and inputs, and not an empty one")
    if wanted.texts:
        return list(wanted.texts), [1] * len(wanted.texts)
    if wanted.images:
        return [{"image": image} for image in wanted.images], [1] * len(wanted.images)
    contents = [each.content for each in wanted.inputs or ()]
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
    wanted: CohereRequest, vectors: Vectors, answers: Sequence[EmbeddingResult]
) -> dict[str, Any]:
    """The JSON of an answer."""
    kinds = dict.fromkeys(wanted.embedding_types or ("float",))
    tokens = sum(answer.tokens for answer in answers)
    billed = {"images": len(wanted.images)} if wanted.images else {"input_tokens": tokens}
    return {
        "id": str(uuid.uuid4()),
        "embeddings": {kind: [encode(vector, kind) for vector in vectors] for kind in kinds},
        "texts": wanted.texts or [],
        "meta": {"api_version": {"version": "2"}, "billed_units": billed},
        "response_type": "embeddings_by_type",
    }


def cohere_error(error: EmbeddingError) -> ErrorReply:
    """Cohere's shape with the status of the error's class."""
    return ErrorReply(error.status, {"message": str(error), "code": error.code})
