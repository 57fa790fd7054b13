"""Voyage's multimodal embeddings: POST /v1/multimodalembeddings. Its texts are OpenAI's route.

Each element of `inputs` gets one vector; of several parts, it is the renormalized mean.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from multimodal_embedding_serving.api.cohere import fuse, list_items, locate
from multimodal_embedding_serving.api.embedding import count_tokens, embed
from multimodal_embedding_serving.api.errors import json_response
from multimodal_embedding_serving.api.openai_input import read_items
from multimodal_embedding_serving.api.request_body import read_json
from multimodal_embedding_serving.api.schemas import (
    EXAMPLE_IMAGE,
    CohereInput,
    CohereRequest,
    Dimensions,
    OpenAIErrorAnswer,
    OpenAIRequest,
)
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.truncation import check_truncation
from multimodal_embedding_serving.api.vectors import FINGERPRINT, OutputType, encode_as
from multimodal_embedding_serving.engine.results import EmbeddingResult
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.inputs.items import Embeddable, InputLimits
from multimodal_embedding_serving.inputs.kinds import WireModel
from multimodal_embedding_serving.types import Vectors


class VoyageRequest(WireModel):
    """POST /v1/multimodalembeddings."""

    inputs: Annotated[list[CohereInput], Field(min_length=1, fail_fast=True)]
    """Parts: {"type": "text", "text": …}, or image_url, image_base64, video_url, video_base64."""
    model: str | None = None
    input_type: Literal["query", "document"] | None = None
    truncation: bool | None = None
    """False rejects a text that exceeds the model's maximum length."""
    output_dtype: OutputType | None = None
    output_dimension: Dimensions = None
    encoding_format: Literal["float", "base64"] | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"inputs": [{"content": [{"type": "text", "text": "a cat"}]}]},
                {
                    "inputs": [
                        {
                            "content": [
                                {"type": "text", "text": "a cat"},
                                {"type": "image_base64", "image_base64": EXAMPLE_IMAGE},
                            ]
                        }
                    ]
                },
            ]
        }
    )


class VoyageEmbedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class VoyageUsage(BaseModel):
    text_tokens: int
    image_pixels: int
    """Always 0: images count in total_tokens, by their patches."""
    video_pixels: int
    total_tokens: int


class VoyageAnswer(BaseModel):
    object: Literal["list"]
    data: list[VoyageEmbedding]
    model: str
    usage: VoyageUsage


def voyage_routes(service: Service) -> APIRouter:
    """The multimodal route under /v1, over one service."""
    error: dict[str, Any] = {"model": OpenAIErrorAnswer}
    routes = APIRouter(responses={"4XX": error, "5XX": error}, tags=["Applications"])

    @routes.post(
        "/multimodalembeddings",
        summary="Embed texts, images and videos, as Voyage does",
        response_model=VoyageAnswer,
    )
    async def multimodal(request: Request) -> Response:
        service.ready_engine()
        parsed = await read_json(request, service.settings, VoyageRequest)
        service.require(parsed.model)
        return await _embed(request, service, parsed)

    return routes


async def _embed(request: Request, service: Service, parsed: VoyageRequest) -> Response:
    InputLimits.of(service.settings).check(len(parsed.inputs))
    content = CohereRequest(inputs=parsed.inputs)
    items, parts = list_items(content)
    body = OpenAIRequest(input=items, input_type=parsed.input_type)
    try:
        inputs = await asyncio.to_thread(read_items, body, service.settings)
        vectors, results = await embed(
            request, service, inputs, dimensions=parsed.output_dimension, field="inputs"
        )
        check_truncation(results, parsed.truncation, "truncation")
    except EmbeddingError as failure:
        raise locate(failure, content, parts) from None
    info = service.ready_engine().info
    answer = {
        "object": "list",
        "model": parsed.model or info.id,
        "usage": _usage(inputs, results),
    }
    return await asyncio.to_thread(
        lambda: json_response(
            {**answer, "data": _rows(parsed, fuse(vectors, parts))},
            headers={FINGERPRINT: info.fingerprint},
        )
    )


def _usage(inputs: Sequence[Embeddable], results: Sequence[EmbeddingResult]) -> dict[str, int]:
    # read_items makes one input of a list of texts.
    pairs = zip(inputs, results, strict=True)
    return {
        "text_tokens": sum(result.tokens for each, result in pairs if each.modality == "text"),
        "image_pixels": 0,
        "video_pixels": 0,
        "total_tokens": count_tokens(results),
    }


def _rows(parsed: VoyageRequest, vectors: Vectors) -> list[dict[str, Any]]:
    kind, packed = parsed.output_dtype or "float", parsed.encoding_format == "base64"
    return [
        {"object": "embedding", "index": place, "embedding": encode_as(row, kind, packed=packed)}
        for place, row in enumerate(vectors)
    ]
