"""OpenAI's embeddings API, exactly, with images and video as further kinds of items."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from multimodal_embedding_serving.api.disconnect import cancel_on_disconnect
from multimodal_embedding_serving.api.errors import json_response
from multimodal_embedding_serving.api.multipart import FORM, read_form
from multimodal_embedding_serving.api.native import FINGERPRINT
from multimodal_embedding_serving.api.openai_input import read_items
from multimodal_embedding_serving.api.request_body import parse_body, validate
from multimodal_embedding_serving.api.schemas import (
    OpenAIAnswer,
    OpenAIErrorAnswer,
    OpenAIModel,
    OpenAIModels,
    OpenAIRequest,
)
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.truncation import check_truncation
from multimodal_embedding_serving.api.vectors import Encoding, answer_vectors, encode
from multimodal_embedding_serving.engine.results import EmbeddingResult
from multimodal_embedding_serving.inputs.items import Embeddable
from multimodal_embedding_serving.settings import Settings

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIErrorAnswer} for status in (400, 401, 403, 404, 429, 500, 503, 504)
}


def openai_routes(service: Service) -> APIRouter:
    """The routes below /v1 over one service."""
    routes = APIRouter(responses=ERRORS)

    @routes.post("/embeddings", summary="Embed a list", response_model=OpenAIAnswer)
    async def embeddings(request: Request) -> Response:
        engine = service.ready_engine()
        settings = service.settings
        decodes = settings.token_ids == "cl100k"  # noqa: S105  # a setting's value
        content_type = request.headers.get("content-type", "")
        parse = partial(_parse, settings, content_type)
        wanted, inputs = await parse_body(request, settings, parse, blocking=decodes)
        service.require(wanted.model)
        work = engine.aembed(inputs, dimensions=wanted.dimensions)
        answers = await cancel_on_disconnect(request, work)
        check_truncation(answers, wanted.truncate)
        encoding = wanted.embedding_type or wanted.encoding_format or "float"
        return await answer_vectors(
            request,
            [answer.vectors for answer in answers],
            lambda: openai_body(answers, encoding, wanted.model or engine.info.id),
            {FINGERPRINT: engine.info.fingerprint},
        )

    @routes.get("/models", summary="The loaded model", response_model=OpenAIModels)
    async def models() -> Response:
        service.ready_engine()
        names = [_described(service)["id"], *service.settings.aliases]
        return json_response(
            {"object": "list", "data": [{**_described(service), "id": name} for name in names]}
        )

    @routes.get("/models/{model:path}", summary="A model", response_model=OpenAIModel)
    async def model(model: str) -> Response:
        service.ready_engine()
        service.require(model)
        return json_response({**_described(service), "id": model})

    return routes


def _parse(
    settings: Settings, content_type: str, body: bytes
) -> tuple[OpenAIRequest, list[Embeddable]]:
    if content_type[: len(FORM)].lower() == FORM:
        return read_form(content_type, body, settings)
    request = validate(OpenAIRequest, body)
    return request, read_items(request, settings)


def _described(service: Service) -> dict[str, Any]:
    info = service.ready_engine().info
    return {
        "id": info.id,
        "object": "model",
        "created": service.created,
        "owned_by": info.family,
        "dimension": info.dimension,
        "modalities": sorted(info.modalities),
        "fingerprint": info.fingerprint,
        **({"parity": dict(info.parity)} if info.parity else {}),
    }


def openai_body(
    answers: Sequence[EmbeddingResult], encoding: Encoding, model: str
) -> dict[str, Any]:
    """The JSON of a list's answer: a vector for each item, in order."""
    vectors = np.concatenate([answer.vectors for answer in answers])
    tokens = sum(answer.tokens for answer in answers)
    usage: dict[str, Any] = {"prompt_tokens": tokens, "total_tokens": tokens}
    if any(answer.truncated for answer in answers):
        usage["truncated"] = True
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector, encoding)}
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": model, "usage": usage}
