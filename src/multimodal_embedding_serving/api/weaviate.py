"""The inference containers of Weaviate's modules multi2vec-clip and multi2vec-bind.

`texts`, `images` and `video` get one vector each (a video the mean of its frames); the other lists
of multi2vec-bind are rejected. Items are base64 without a data URI, or with one.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from multimodal_embedding_serving.api.embedding import embed, vectors_response
from multimodal_embedding_serving.api.errors import ErrorReply, json_response
from multimodal_embedding_serving.api.openai_input import ONE_VECTOR
from multimodal_embedding_serving.api.request_body import read_json
from multimodal_embedding_serving.api.schemas import EXAMPLE_IMAGE, Strings
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput
from multimodal_embedding_serving.inputs.items import Embeddable, InputLimits, Texts
from multimodal_embedding_serving.inputs.kinds import (
    ImageBase64Input,
    VideoBase64Input,
    WireModel,
)

LISTS = ("texts", "images", "video")
"""The lists that are embedded, in the order of the vectors."""
NOT_EMBEDDED = ("audio", "imu", "thermal", "depth")


class WeaviateRequest(WireModel):
    """POST /vectorize."""

    texts: Strings | None = None
    images: Strings | None = None
    video: Strings | None = None
    audio: Strings | None = None
    imu: Strings | None = None
    thermal: Strings | None = None
    depth: Strings | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"texts": ["a red bus"]}, {"texts": ["a cat"], "images": [EXAMPLE_IMAGE]}]
        }
    )


class WeaviateAnswer(BaseModel):
    textVectors: list[list[float]]  # noqa: N815  # Weaviate's name
    imageVectors: list[list[float]]  # noqa: N815
    videoVectors: list[list[float]] | None = None  # noqa: N815


class WeaviateErrorAnswer(BaseModel):
    error: str


def weaviate_routes(service: Service) -> APIRouter:
    """The routes that Weaviate's modules call, over one service."""
    error: dict[str, Any] = {"model": WeaviateErrorAnswer}
    routes = APIRouter(responses={"4XX": error, "5XX": error}, tags=["Applications"])

    @routes.post(
        "/vectorize", summary="Embed texts and images, for Weaviate", response_model=WeaviateAnswer
    )
    async def vectorize(request: Request) -> Response:
        service.ready_engine()
        parsed = await read_json(request, service.settings, WeaviateRequest)
        return await _vectorize(request, service, parsed)

    @routes.get("/meta", summary="Describe the model, for Weaviate")
    async def meta() -> Response:
        info = service.ready_engine().info
        return json_response(
            {"model": info.id, "dimension": info.dimension, "fingerprint": info.fingerprint}
        )

    @routes.get("/.well-known/ready", summary="Check readiness, for Weaviate", status_code=204)
    async def ready() -> Response:
        service.ready_engine()
        return Response(status_code=204)

    @routes.get("/.well-known/live", summary="Check that the process lives", status_code=204)
    async def live() -> Response:
        return Response(status_code=204)

    return routes


async def _vectorize(request: Request, service: Service, parsed: WeaviateRequest) -> Response:
    for name in NOT_EMBEDDED:
        if getattr(parsed, name):
            raise InvalidInput(f"{name}: is not supported by any model here", param=name)
    lists = {name: getattr(parsed, name) or [] for name in LISTS}
    InputLimits.of(service.settings).check(sum(map(len, lists.values())))
    inputs = [_input(name, item) for name, items in lists.items() for item in items]
    try:
        vectors, _ = await embed(request, service, inputs)
    except EmbeddingError as failure:
        raise _locate(failure, lists) from None
    texts, media = len(lists["texts"]), len(lists["texts"]) + len(lists["images"])
    return await vectors_response(
        service,
        vectors,
        lambda rows: {
            "textVectors": rows[:texts],
            "imageVectors": rows[texts:media],
            **({"videoVectors": rows[media:]} if parsed.video is not None else {}),
        },
    )


def _input(name: str, item: str) -> Embeddable:
    if name == "texts":
        return Texts([item], many=False)
    if name == "images":
        return ImageBase64Input(type="image_base64", image_base64=item)
    return VideoBase64Input(type="video_base64", video_base64=item, segment_config=ONE_VECTOR)


def _locate(error: EmbeddingError, lists: dict[str, list[str]]) -> EmbeddingError:
    """The same error, with the item named as the client wrote it: `images[1]: …`."""
    if error.index is None:
        return error
    place = error.index
    for name, items in lists.items():
        if place < len(items):
            error.index, error.param = place, name
            return error
        place -= len(items)
    return error


def weaviate_error(error: EmbeddingError) -> ErrorReply:
    return ErrorReply(error.status, {"error": str(error)})
