"""The native endpoints: Intel MME's wire contract, and the probes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from multimodal_embedding_serving.api.chat_input import choose_body
from multimodal_embedding_serving.api.classify import classify_routes
from multimodal_embedding_serving.api.disconnect import cancel_on_disconnect
from multimodal_embedding_serving.api.errors import ErrorReply, json_response
from multimodal_embedding_serving.api.llamacpp import PATH as LLAMACPP_PATH
from multimodal_embedding_serving.api.llamacpp import (
    LlamaEmbedding,
    LlamaErrorAnswer,
    LlamaRequest,
    embed_prompts,
)
from multimodal_embedding_serving.api.openai import embed_parsed
from multimodal_embedding_serving.api.paths import answer_as
from multimodal_embedding_serving.api.request_body import read_chosen
from multimodal_embedding_serving.api.schemas import (
    Capabilities,
    CurrentModel,
    EmbeddingsAnswer,
    EmbeddingsRequest,
    ErrorAnswer,
    HealthAnswer,
    ModelsAnswer,
    OpenAIAnswer,
    OpenAIErrorAnswer,
    OpenAIRequest,
)
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.vectors import (
    FINGERPRINT,
    MAX_INLINE_NUMBERS,
    Encoding,
    encode,
    raw_response,
)
from multimodal_embedding_serving.catalog import by_family
from multimodal_embedding_serving.engine.loader import ModelInfo
from multimodal_embedding_serving.engine.results import EmbeddingResult
from multimodal_embedding_serving.errors import EmbeddingError, NotReady

OPENAI_PATH = "/v1/embeddings"
"""An `input` that is a string or a list is OpenAI's: many clients are set up without `/v1`."""

ABOUT_EMBEDDINGS = (
    "`input` is one object with a `type`. A single text, image or URL gives one vector, a list "
    "gives a list, and a video gives a vector per sampled frame, with the frames' times. An "
    "`input` that is a string or a list is answered as OpenAI's API does, and `content` instead of "
    "`input` as llama.cpp does.\n\n"
    "`Accept: application/octet-stream` returns raw float32 rows and `application/x-npy` a NumPy "
    "file. The header `x-embedding-fingerprint` shows which vectors are comparable."
)
"""Markdown for the API page."""

ERROR: dict[str, Any] = {"model": ErrorAnswer}
EITHER_ERROR: dict[str, Any] = {"model": ErrorAnswer | OpenAIErrorAnswer | LlamaErrorAnswer}


class NativeRoutes:
    """The routes of the native API over one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.router = APIRouter(responses={"4XX": ERROR, "5XX": ERROR})
        either: dict[int | str, dict[str, Any]] = {"4XX": EITHER_ERROR, "5XX": EITHER_ERROR}
        self._add_descriptions()
        self.router.post(
            "/embeddings",
            summary="Embed a text, image or video, or a list of them",
            description=ABOUT_EMBEDDINGS,
            tags=["Embeddings"],
            response_model=EmbeddingsAnswer | OpenAIAnswer | list[LlamaEmbedding],
            responses=either,
        )(self.embeddings)

    def _add_descriptions(self) -> None:
        """The probes, and what is said about models."""
        health: list[str | Enum] = ["Health"]
        model: list[str | Enum] = ["Model"]
        get = self.router.get
        get("/live", summary="Check that the process can still serve", tags=health)(self.live)
        get("/ready", summary="Check readiness, or see how far loading is", tags=health)(self.ready)
        get(
            "/health",
            summary="Check readiness, in the format of Intel's service",
            tags=health,
            response_model=HealthAnswer,
        )(self.health)
        for path in ("/models", "/model/list"):
            get(path, summary="List the catalog", tags=model, response_model=ModelsAnswer)(
                self.models
            )
        get(
            "/model/current",
            summary="Show the loaded model",
            tags=model,
            response_model=CurrentModel,
        )(self.current)
        get(
            "/model/capabilities",
            summary="Show what the loaded model can embed",
            tags=model,
            response_model=Capabilities,
        )(self.capabilities)

    async def live(self) -> Response:
        if self.service.failure is not None:
            raise NotReady(f"could not load the model: {self.service.failure}")
        if self.service.engine is not None and self.service.engine.dead:
            raise NotReady("the model failed its self-test and could not be reloaded")
        return json_response({"status": "alive"})

    async def ready(self) -> Response:
        service = self.service
        reason = service.unready
        if reason is None:
            return json_response({"status": "ready"})
        body = {"detail": reason, "stage": service.stage, "percent": round(100 * service.share)}
        return json_response(body, 503, {"retry-after": "1"})

    async def health(self) -> Response:
        self.service.ready_engine()
        return json_response({"status": "healthy"})

    async def models(self) -> Response:
        families = by_family()
        engine = self.service.engine
        return json_response(
            {
                "current_model": self.service.settings.model if engine is None else engine.info.id,
                "available_models": families,
                "total_models": sum(map(len, families.values())),
            }
        )

    async def current(self) -> Response:
        info = self._info()
        body = {
            "model": info.id,
            "device": info.device,
            "use_openvino": info.backend == "openvino",
            "backend": info.backend,
            "precision": info.precision,
            "inference_precision": info.inference,
            "dynamic_quantization_group_size": info.dynamic_quantization_group_size,
            "dimension": info.dimension,
            "fingerprint": info.fingerprint,
            "notices": list(info.notices),
        }
        optional = {
            "text_length": info.text_length,
            "image_size": info.image_size,
            "logit_scale": info.logit_scale,
            "logit_bias": info.logit_bias,
            "jpeg_decode": info.jpeg_decode,
            "notice": info.notice,
            "parity": dict(info.parity) if info.parity else None,
        }
        body |= {name: value for name, value in optional.items() if value is not None}
        return json_response(body, headers={FINGERPRINT: info.fingerprint})

    async def capabilities(self) -> Response:
        info = self._info()
        images = "image" in info.modalities
        return json_response(
            {
                "model": info.id,
                "modalities": sorted(info.modalities),
                "supports_text": "text" in info.modalities,
                "supports_image": images,
                "supports_video": images,
            }
        )

    async def embeddings(self, request: Request) -> Response:
        engine = self.service.ready_engine()

        def choose(
            body: Mapping[str, Any],
        ) -> type[EmbeddingsRequest | OpenAIRequest | LlamaRequest]:
            if "input" not in body and "content" in body and self.service.serves("llamacpp"):
                answer_as(request.scope, LLAMACPP_PATH)
                return LlamaRequest
            if not isinstance(body.get("input"), str | list) and "messages" not in body:
                return EmbeddingsRequest
            answer_as(request.scope, OPENAI_PATH)
            return choose_body(body)

        parsed = await read_chosen(request, self.service.settings, choose)
        if isinstance(parsed, OpenAIRequest):
            return await embed_parsed(request, self.service, parsed)
        if isinstance(parsed, LlamaRequest):
            return await embed_prompts(request, self.service, parsed)
        self.service.require_native(parsed.model)
        work = engine.embed_inputs([parsed.input], dimensions=parsed.dimensions)
        (result,) = await cancel_on_disconnect(request, work)
        if result.vectors.size <= MAX_INLINE_NUMBERS:
            return _respond(request, parsed, result, engine.info)
        return await asyncio.to_thread(_respond, request, parsed, result, engine.info)

    def _info(self) -> ModelInfo:
        if self.service.engine is None:
            raise NotReady("Model is not initialized")
        return self.service.engine.info


def _respond(
    request: Request, parsed: EmbeddingsRequest, result: EmbeddingResult, info: ModelInfo
) -> Response:
    headers = {FINGERPRINT: info.fingerprint}
    raw = raw_response(request.headers.get("accept", ""), [result.vectors], headers)
    if raw is not None:
        return raw
    encoding: Encoding = "base64" if parsed.encoding_format == "base64" else "float"
    return json_response(native_body(result, encoding, info.id), headers=headers)


def native_body(result: EmbeddingResult, encoding: Encoding, model: str) -> dict[str, Any]:
    """The JSON of the response to one input."""
    rows = [encode(vector, encoding) for vector in result.vectors]
    usage = {"prompt_tokens": result.tokens, "total_tokens": result.tokens}
    body: dict[str, Any] = {
        "embedding": rows if result.many else rows[0],
        "model": model,
        "usage": {**usage, "truncated": result.truncated},
    }
    if result.frames is not None:
        body["frames"] = [{"index": f.index, "timestamp": f.timestamp} for f in result.frames]
    if result.skipped:
        body["skipped"] = [
            {
                "frame_number": each.frame_number,
                "index": each.frame_number,
                "timestamp": each.timestamp,
                "error": each.error.message,
            }
            for each in result.skipped
        ]
    return body


def native_routes(service: Service) -> APIRouter:
    routes = NativeRoutes(service).router
    routes.include_router(classify_routes(service))
    return routes


def native_error(error: EmbeddingError) -> ErrorReply:
    """`{"detail": message, "code": code, "index"?: item}`, with the HTTP status of the class."""
    body: dict[str, Any] = {"detail": error.message, "code": error.code}
    if error.index is not None:
        body["index"] = error.index
    return ErrorReply(error.status, body)
