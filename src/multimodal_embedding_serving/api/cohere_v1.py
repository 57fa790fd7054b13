"""Cohere's older API: POST /v1/embed, which `cohere.Client` and langchain-cohere still call.

The body is that of version 2; without `embedding_types`, the response has a list of vectors.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from multimodal_embedding_serving.api.cohere import (
    ERROR_RESPONSES,
    cohere_body,
    fuse,
    list_items,
    locate,
    read_inputs,
)
from multimodal_embedding_serving.api.embedding import embed
from multimodal_embedding_serving.api.errors import json_response
from multimodal_embedding_serving.api.request_body import read_json
from multimodal_embedding_serving.api.schemas import CohereRequest
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.truncation import check_truncation
from multimodal_embedding_serving.api.vectors import FINGERPRINT
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.inputs.items import InputLimits


def cohere_v1_routes(service: Service) -> APIRouter:
    """Cohere's route under /v1, over one service."""
    routes = APIRouter(responses=ERROR_RESPONSES, tags=["Cohere"])

    @routes.post("/embed", summary="Embed texts or images, by version 1 of the API")
    async def embed_v1(request: Request) -> Response:
        info = service.ready_engine().info
        parsed = await read_json(request, service.settings, CohereRequest)
        service.require(parsed.model)
        given = parsed.texts or parsed.images or parsed.inputs or ()
        InputLimits.of(service.settings).check(len(given))
        items, parts = list_items(parsed)
        try:
            inputs = await read_inputs(parsed, items, service.settings)
            vectors, results = await embed(
                request, service, inputs, dimensions=parsed.output_dimension
            )
            check_truncation(results, parsed.truncate)
        except EmbeddingError as failure:
            raise locate(failure, parsed, parts) from None
        headers = {FINGERPRINT: info.fingerprint}
        return await asyncio.to_thread(
            lambda: json_response(
                _body(parsed, cohere_body(parsed, fuse(vectors, parts), results)), headers=headers
            )
        )

    return routes


def _body(parsed: CohereRequest, body: dict[str, Any]) -> dict[str, Any]:
    """Version 2's response as version 1's."""
    body["meta"]["api_version"]["version"] = "1"
    if parsed.embedding_types:
        return body
    floats = body["embeddings"]["float"]
    return {**body, "embeddings": floats, "response_type": "embeddings_floats"}
