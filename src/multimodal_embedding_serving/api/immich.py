"""The machine-learning service of immich, for its search: POST /predict and GET /ping.

immich names a model of its own list, so that the catalog's equal models have its names here. Faces
and text recognition have no model here: with EMBEDDING_IMMICH_UPSTREAM, their requests are
forwarded to immich's own service as they came.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import httpx2
import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.responses import Response

from multimodal_embedding_serving.api.disconnect import cancel_on_disconnect
from multimodal_embedding_serving.api.embedding import embed
from multimodal_embedding_serving.api.errors import json_response
from multimodal_embedding_serving.api.multipart import FORM, MAX_FIELD_BYTES, split_form
from multimodal_embedding_serving.api.request_body import explain, read_body
from multimodal_embedding_serving.api.schemas import ErrorAnswer
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.vectors import FINGERPRINT
from multimodal_embedding_serving.errors import BadRequest, InvalidInput, RemoteFailed, TooLarge
from multimodal_embedding_serving.inputs.items import Embeddable, Images, Texts
from multimodal_embedding_serving.inputs.kinds import WireModel
from multimodal_embedding_serving.media.formats import recognize
from multimodal_embedding_serving.media.image import image_limits, image_size
from multimodal_embedding_serving.settings import Settings

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "vit-b-16__openai": "CLIP/clip-vit-b-16",
        "vit-b-32__laion2b-s34b-b79k": "CLIP/clip-vit-b-32",
        "vit-h-14__laion2b-s32b-b79k": "CLIP/clip-vit-h-14",
        "vit-b-16-siglip2__webli": "SigLIP/siglip2-vit-b-16",
        "vit-l-16-siglip2-256__webli": "SigLIP/siglip2-vit-l-16",
        "vit-so400m-16-siglip2-384__webli": "SigLIP/siglip2-so400m-patch16-384",
    }
)
"""immich's names, in lower case, of the models that have the same weights here."""
SEARCH = "clip"
PARTS = {"textual": "text", "visual": "image"}
"""The types of a search's entry, and the part of the form that each one embeds."""
MAX_PARTS = 16
PARSED_IN_PYTHON = ("JPEG", "PNG")
"""Formats whose header Pillow reads without native code."""


class ImmichEntry(WireModel):
    modelName: str  # noqa: N815  # immich's name
    options: dict[str, Any] | None = None
    """A language, which only models with a translator use in immich's own service."""


class ImmichAnswer(BaseModel):
    clip: str
    """The vector as JSON in a string: immich writes it into SQL as it is."""
    imageHeight: int | None = None  # noqa: N815
    imageWidth: int | None = None  # noqa: N815


Entries = dict[str, dict[str, ImmichEntry]]
"""Task -> type -> model, as in {"clip": {"visual": {"modelName": "ViT-B-16__openai"}}}."""
_ENTRIES = TypeAdapter(Entries)

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["entries"],
    "properties": {
        "entries": {"type": "string", "description": "JSON: task -> type -> modelName."},
        "text": {"type": "string"},
        "image": {"type": "string", "format": "binary"},
    },
}
"""The form in the OpenAPI document."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """A form of immich's."""

    entries: Entries
    parts: Mapping[str, bytes]


def immich_routes(service: Service) -> APIRouter:
    """The routes that immich's server calls, over one service."""
    error: dict[str, Any] = {"model": ErrorAnswer}
    routes = APIRouter(responses={"4XX": error, "5XX": error}, tags=["Applications"])

    @routes.get("/ping", summary="Check readiness, for immich", response_class=Response)
    async def ping() -> Response:
        service.ready_engine()
        return Response("pong", media_type="text/plain")

    @routes.post(
        "/predict", summary="Embed a text or an image, for immich", response_model=ImmichAnswer
    )
    async def predict(request: Request) -> Response:
        service.ready_engine()
        content_type = request.headers.get("content-type", "")
        body = await read_body(request, service.settings)
        form = await asyncio.to_thread(read_prediction, content_type, body)
        if SEARCH in form.entries and len(form.entries) == 1:
            return await _search(request, service, form)
        upstream = service.settings.immich_upstream
        if SEARCH in form.entries or not upstream:
            tasks = ", ".join(each for each in form.entries if each != SEARCH) or "none"
            raise InvalidInput(
                f"entries: only {SEARCH!r} is served here, not {tasks[:200]}; set "
                "EMBEDDING_IMMICH_UPSTREAM to the address of immich's own service for the others",
                param="entries",
            )
        forwarding = forward(
            f"{upstream.rstrip('/')}/predict", content_type, body, service.settings
        )
        return await cancel_on_disconnect(request, forwarding)

    return routes


def read_prediction(content_type: str, body: bytes) -> Prediction:
    """A form -> its entries and other parts. Raises InvalidInput with the part's name."""
    if content_type[: len(FORM)].lower() != FORM:
        raise InvalidInput(f"POST /predict takes immich's form: {FORM} with the part `entries`")
    parts: dict[str, bytes] = {}
    for part in split_form(content_type, body, MAX_PARTS):
        name, _ = part.name_and_file()
        if name in parts:
            raise InvalidInput(f"{name}: the form has this part twice", param=name)
        parts[name] = part.data
    entries = parts.get("entries", b"")
    if len(entries) > MAX_FIELD_BYTES:
        raise TooLarge(f"entries: longer than {MAX_FIELD_BYTES:,} bytes", param="entries")
    try:
        return Prediction(_ENTRIES.validate_python(orjson.loads(entries)), parts)
    except orjson.JSONDecodeError:
        raise InvalidInput("entries: must be JSON, as immich sends it", param="entries") from None
    except ValidationError as error:
        raise explain(error, "entries") from None


async def _search(request: Request, service: Service, form: Prediction) -> Response:
    """Embed the text or the image of a search's entry."""
    types = form.entries[SEARCH]
    if len(types) != 1 or not set(types) <= set(PARTS):
        message = f"entries.{SEARCH}: must have one of {' and '.join(PARTS)}"
        raise InvalidInput(message, param=f"entries.{SEARCH}")
    ((kind, entry),) = types.items()
    name = entry.modelName.rpartition("/")[2].replace(":", "_")
    service.require(NAMES.get(name.lower(), entry.modelName))
    part = PARTS[kind]
    data = form.parts.get(part)
    if data is None:
        raise BadRequest(f"the form has no part {part!r}, which {kind!r} embeds", param=part)
    vectors, _ = await embed(request, service, [_input(part, data)])
    vector = orjson.dumps(vectors[0], option=orjson.OPT_SERIALIZE_NUMPY).decode()
    body: dict[str, Any] = {SEARCH: vector}
    if part == "image":
        body |= await asyncio.to_thread(_size, data, service.settings)
    fingerprint = service.ready_engine().info.fingerprint
    return json_response(body, headers={FINGERPRINT: fingerprint})


def _input(part: str, data: bytes) -> Embeddable:
    if part == "image":
        return Images([data])
    try:
        return Texts([data.decode("utf-8")], "query", many=False)
    except UnicodeDecodeError:
        raise InvalidInput("text: the part is not valid UTF-8", param="text") from None


def _size(data: bytes, settings: Settings) -> dict[str, int]:
    """The image's size. With EMBEDDING_IMAGE_ISOLATION, only of a format that no native code reads:
    immich uses it for faces alone."""
    if settings.image_isolation and recognize(data) not in PARSED_IN_PYTHON:
        return {}
    width, height = image_size(data, image_limits(settings))
    return {"imageHeight": height, "imageWidth": width}


async def forward(url: str, content_type: str, body: bytes, settings: Settings) -> Response:
    """The response of immich's own service to a form. Raises RemoteFailed and TooLarge."""
    limit = settings.max_body_mb * 2**20
    received = io.BytesIO()
    timeout = settings.request_timeout
    try:
        async with (
            httpx2.AsyncClient(timeout=timeout, trust_env=False) as client,
            client.stream(
                "POST", url, content=body, headers={"content-type": content_type}
            ) as response,
        ):
            async for chunk in response.aiter_bytes():
                received.write(chunk)
                if received.tell() > limit:
                    raise RemoteFailed("EMBEDDING_IMMICH_UPSTREAM: the response is too large")
            media_type = response.headers.get("content-type", "application/json")
            return Response(received.getvalue(), response.status_code, media_type=media_type)
    except httpx2.HTTPError as error:
        kind = type(error).__name__
        raise RemoteFailed(f"EMBEDDING_IMMICH_UPSTREAM could not be reached: {kind}") from None
