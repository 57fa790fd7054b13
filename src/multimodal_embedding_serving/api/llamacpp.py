"""llama.cpp's server as Frigate and LangChain's Llamafile call it for embeddings.

A body with `content` instead of `input` is llama.cpp's, on /embeddings and on /embedding. Each of
its prompts gets one vector; a prompt with images has a marker for each of them.
"""

from __future__ import annotations

import asyncio
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from multimodal_embedding_serving.api.cohere import fuse, list_items
from multimodal_embedding_serving.api.embedding import embed, vectors_response
from multimodal_embedding_serving.api.errors import ErrorReply, json_response
from multimodal_embedding_serving.api.openai_input import read_items
from multimodal_embedding_serving.api.paths import answer_as
from multimodal_embedding_serving.api.request_body import read_json
from multimodal_embedding_serving.api.schemas import (
    EXAMPLE_IMAGE,
    CohereInput,
    CohereRequest,
    OpenAIRequest,
    Strings,
)
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput
from multimodal_embedding_serving.inputs.items import InputLimits
from multimodal_embedding_serving.inputs.kinds import WireModel
from multimodal_embedding_serving.types import Vectors

PATH = "/embedding"
MARKER = "<__media__>"
"""Where an image belongs in a prompt."""


class LlamaPrompt(WireModel):
    prompt_string: str
    multimodal_data: Strings | None = None
    """Base64 of images, one for each marker."""


Prompt = str | LlamaPrompt


class LlamaRequest(WireModel):
    """POST /embedding, and POST /embeddings with `content`."""

    content: Prompt | Annotated[list[Prompt], Field(min_length=1, fail_fast=True)]
    model: str | None = None
    embd_normalize: Literal[2] | None = None
    """llama.cpp's name for unit length; other norms are not served."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"content": [{"prompt_string": "a man at the door"}]},
                {"content": [{"prompt_string": f"{MARKER}\n", "multimodal_data": [EXAMPLE_IMAGE]}]},
            ]
        }
    )


class LlamaEmbedding(BaseModel):
    index: int
    embedding: list[list[float]]
    """One row: the vector."""


class LlamaErrorDetail(BaseModel):
    code: int
    message: str
    type: str


class LlamaErrorAnswer(BaseModel):
    error: LlamaErrorDetail


def llamacpp_routes(service: Service) -> APIRouter:
    """llama.cpp's own routes, over one service."""
    error: dict[str, Any] = {"model": LlamaErrorAnswer}
    routes = APIRouter(responses={"4XX": error, "5XX": error}, tags=["Applications"])

    @routes.post(PATH, summary="Embed prompts, as llama.cpp does")
    async def embedding(request: Request) -> Response:
        service.ready_engine()
        parsed = await read_json(request, service.settings, LlamaRequest)
        if not isinstance(parsed.content, str):
            return await embed_prompts(request, service, parsed)
        vectors = await _embed(request, service, parsed)
        return await vectors_response(service, vectors, lambda rows: {"embedding": rows[0]})

    @routes.get("/props", summary="Describe the server, as llama.cpp does")
    async def props() -> Response:
        info = service.ready_engine().info
        return json_response(
            {
                "default_generation_settings": {"n_ctx": info.text_length or 0},
                "total_slots": 1,
                "model_path": info.id,
                "modalities": {"vision": "image" in info.modalities, "audio": False},
                "chat_template": "",
                "chat_template_caps": {},
                "media_marker": MARKER,
                "build_info": "mmes",
            }
        )

    return routes


async def embed_prompts(request: Request, service: Service, parsed: LlamaRequest) -> Response:
    """`[{"index", "embedding": [vector]}]`; errors have llama.cpp's form from here on."""
    answer_as(request.scope, PATH)
    vectors = await _embed(request, service, parsed)
    return await vectors_response(
        service,
        vectors,
        lambda rows: [{"index": place, "embedding": [row]} for place, row in enumerate(rows)],
    )


async def _embed(request: Request, service: Service, parsed: LlamaRequest) -> Vectors:
    """Vectors float32 [prompts, dimension]."""
    service.require(parsed.model)
    prompts = parsed.content if isinstance(parsed.content, list) else [parsed.content]
    InputLimits.of(service.settings).check(len(prompts))
    contents = [CohereInput(content=_content(*each)) for each in enumerate(prompts)]
    items, parts = list_items(CohereRequest(inputs=contents))
    body = OpenAIRequest(input=items)
    try:
        inputs = await asyncio.to_thread(read_items, body, service.settings)
        vectors, _ = await embed(request, service, inputs)
    except EmbeddingError as error:
        raise _locate(error, parts) from None
    return fuse(vectors, parts)


def _locate(error: EmbeddingError, parts: Sequence[int]) -> EmbeddingError:
    """The same error, with the prompt named as the client wrote it: `content[1]: …`."""
    if error.index is not None:
        error.index = bisect(list(accumulate(parts, initial=0)), error.index) - 1
        error.param = f"content.{error.index}"
        error.message = f"content[{error.index}]: {error.message}"
    return error


def _content(place: int, prompt: Prompt) -> list[dict[str, Any]]:
    """The text of a prompt, without its markers, and its images. Raises InvalidInput."""
    if isinstance(prompt, str):
        prompt = LlamaPrompt(prompt_string=prompt)
    images = prompt.multimodal_data or []
    markers = prompt.prompt_string.count(MARKER) if images else 0
    if markers != len(images):
        raise InvalidInput(
            f"content[{place}]: prompt_string has {markers} {MARKER} for {len(images)} images",
            index=place,
            param=f"content.{place}",
        )
    text = prompt.prompt_string.replace(MARKER, "") if images else prompt.prompt_string
    content: list[dict[str, Any]] = [{"image": image} for image in images]
    if text.strip() or not images:
        content.insert(0, {"text": text})
    return content


def llamacpp_error(error: EmbeddingError) -> ErrorReply:
    """`{"error": {"code", "message", "type"}}`; what is wrong with a body is a 400."""
    status = 400 if error.status in (413, 422) else error.status
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
    kinds |= {429: "unavailable_error", 503: "unavailable_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return ErrorReply(status, {"error": {"code": status, "message": str(error), "type": kind}})
