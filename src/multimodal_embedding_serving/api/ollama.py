"""Ollama's API, as its clients use it for embeddings (github.com/ollama/ollama, docs/api.md)."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from multimodal_embedding_serving.api.embedding import count_tokens, embed, vectors_response
from multimodal_embedding_serving.api.errors import ErrorReply, json_response
from multimodal_embedding_serving.api.request_body import read_json
from multimodal_embedding_serving.api.schemas import Dimensions, Strings
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.truncation import check_truncation
from multimodal_embedding_serving.api.vectors import FINGERPRINT
from multimodal_embedding_serving.engine.loader import ModelInfo
from multimodal_embedding_serving.errors import BadRequest, EmbeddingError
from multimodal_embedding_serving.inputs.items import Embeddable, InputLimits, Texts
from multimodal_embedding_serving.inputs.kinds import WireModel

VERSION = "0.12.0"
"""Of Ollama's API. Open WebUI requires digits and dots."""
NEVER = "9999-12-31T23:59:59Z"
"""When the model will be unloaded."""


class OllamaRequest(WireModel):
    """POST /api/embed."""

    model: str
    input: str | Strings
    truncate: bool | None = None
    """False rejects a text that exceeds the model's maximum length."""
    dimensions: Dimensions = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "Builtin/mini", "input": "a cat"},
                {"model": "Builtin/mini", "input": ["a cat", "a dog"]},
            ]
        }
    )


class OllamaPrompt(WireModel):
    """POST /api/embeddings, the older route."""

    model: str
    prompt: str

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"model": "Builtin/mini", "prompt": "a cat"},
                {"model": "Builtin/mini:latest", "prompt": "a dog"},
            ]
        }
    )


class OllamaName(WireModel):
    """POST /api/show."""

    model: str | None = None
    name: str | None = None
    """The older name of `model`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "Builtin/mini"}, {"name": "mini:latest"}]}
    )


class OllamaAnswer(BaseModel):
    model: str
    embeddings: list[list[float]]
    total_duration: int = Field(ge=0)
    """Nanoseconds."""
    load_duration: int = Field(ge=0)
    prompt_eval_count: int


class OllamaErrorAnswer(BaseModel):
    error: str


class OllamaRoutes:
    """The routes under /api, over one service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        error: dict[str, Any] = {"model": OllamaErrorAnswer}
        self.router = APIRouter(responses={"4XX": error, "5XX": error}, tags=["Applications"])
        get, post = self.router.get, self.router.post
        post("/embed", summary="Embed texts, for Ollama's clients", response_model=OllamaAnswer)(
            self.embed
        )
        post("/embeddings", summary="Embed one text, for Ollama's older clients")(self.embed_prompt)
        post("/show", summary="Describe the model, for Ollama's clients")(self.show)
        get("/tags", summary="List the model's names, for Ollama's clients")(self.tags)
        get("/ps", summary="List what is loaded, for Ollama's clients")(self.loaded)
        get("/version", summary="Show the version of Ollama's API")(self.version)

    async def embed(self, request: Request) -> Response:
        started = time.perf_counter_ns()
        self.service.ready_engine()
        parsed = await read_json(request, self.service.settings, OllamaRequest)
        self.service.require(parsed.model)
        texts = [parsed.input] if isinstance(parsed.input, str) else parsed.input
        InputLimits.of(self.service.settings).check(len(texts))
        # Ollama loads its model for an empty input, and returns nothing.
        inputs: list[Embeddable] = [Texts(texts)] if parsed.input else []
        vectors, results = await embed(request, self.service, inputs, dimensions=parsed.dimensions)
        check_truncation(results, parsed.truncate)
        return await vectors_response(
            self.service,
            vectors,
            lambda rows: {
                "model": parsed.model,
                "embeddings": rows,
                "total_duration": time.perf_counter_ns() - started,
                "load_duration": 0,
                "prompt_eval_count": count_tokens(results),
            },
        )

    async def embed_prompt(self, request: Request) -> Response:
        self.service.ready_engine()
        parsed = await read_json(request, self.service.settings, OllamaPrompt)
        self.service.require(parsed.model)
        inputs: list[Embeddable] = [Texts([parsed.prompt], many=False)] if parsed.prompt else []
        vectors, _ = await embed(request, self.service, inputs)
        return await vectors_response(
            self.service, vectors, lambda rows: {"embedding": rows[0] if rows else []}
        )

    async def show(self, request: Request) -> Response:
        info = self.service.ready_engine().info
        parsed = await read_json(request, self.service.settings, OllamaName)
        name = parsed.model or parsed.name
        if not name:
            raise BadRequest("model: is required", param="model")
        self.service.require(name)
        architecture = info.family.lower()
        empty = dict.fromkeys(("license", "modelfile", "parameters", "template"), "")
        return json_response(
            {
                **empty,
                "details": _details(info),
                "model_info": {
                    "general.architecture": architecture,
                    f"{architecture}.embedding_length": info.dimension,
                    f"{architecture}.context_length": info.text_length or 0,
                },
                "capabilities": ["embedding"],
                "modified_at": self._loaded_at(),
            },
            headers={FINGERPRINT: info.fingerprint},
        )

    async def tags(self) -> Response:
        self.service.ready_engine()
        more = {"modified_at": self._loaded_at(), "capabilities": ["embedding"]}
        return json_response({"models": [{**each, **more} for each in self._entries()]})

    async def loaded(self) -> Response:
        info = self.service.ready_engine().info
        more = {"expires_at": NEVER, "size_vram": 0, "context_length": info.text_length or 0}
        return json_response({"models": [{**each, **more} for each in self._entries()]})

    async def version(self) -> Response:
        return json_response({"version": VERSION})

    def _entries(self) -> list[dict[str, Any]]:
        """One for each name: LangChain looks for a name, alone or with a tag, in the list."""
        info = self.service.ready_engine().info
        digest = hashlib.sha256(info.fingerprint.encode()).hexdigest()
        names = dict.fromkeys((info.id, info.id.rpartition("/")[2], *self.service.settings.aliases))
        entry = {"size": 0, "digest": digest, "details": _details(info)}
        tagged = [name if ":" in name else f"{name}:latest" for name in names]
        return [{"name": name, "model": name, **entry} for name in tagged]

    def _loaded_at(self) -> str:
        return datetime.fromtimestamp(self.service.created, UTC).isoformat()


def _details(info: ModelInfo) -> dict[str, Any]:
    family = info.family.lower()
    return {
        "parent_model": "",
        "format": info.backend,
        "family": family,
        "families": [family],
        "parameter_size": "",
        "quantization_level": info.precision,
    }


def ollama_routes(service: Service) -> APIRouter:
    return OllamaRoutes(service).router


def ollama_error(error: EmbeddingError) -> ErrorReply:
    """`{"error": message}`; what is wrong with a body is a 400, and a full queue a 503."""
    statuses = {413: 400, 422: 400, 429: 503}
    return ErrorReply(statuses.get(error.status, error.status), {"error": str(error)})
