"""The OpenAPI document: FastAPI's, plus request bodies with examples, tags and the API key.

FastAPI does not know the bodies, because the routes read them themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import UnionType
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from multimodal_embedding_serving.api.dialects import DIALECTS
from multimodal_embedding_serving.api.middleware import PUBLIC_PATHS

REFERENCE = "#/components/schemas/{model}"
MAX_EXAMPLE_TITLE = 72
"""Characters of an example in the list of examples."""
MAX_EXAMPLE_STRING = 20
"""Characters of a string in there."""

TAGS = [
    {"name": "Embeddings", "description": "Text, images and video to vectors: the native API."},
    {"name": "OpenAI", "description": "OpenAI's embeddings API, with images and videos as items."},
    {"name": "Cohere", "description": "Cohere's embed API, version 2."},
    {"name": "Applications", "description": "What immich, Weaviate, Ollama's clients … expect."},
    {"name": "Compare", "description": "Labels, scores and order instead of vectors."},
    {"name": "Model", "description": "What is loaded, and what could be."},
    {"name": "Health", "description": "Probes and metrics. Probes need no API key."},
]
"""In the order of the API page."""

API_KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "One of the server's EMBEDDING_API_KEYS. Without that setting no key is needed.",
}

Body = type[BaseModel] | UnionType | Mapping[str, Any]


def with_bodies(
    generate: Callable[[], dict[str, Any]], *, keyed: bool
) -> Callable[[], dict[str, Any]]:
    """`generate`'s document, completed; cached. `keyed`: requests need an API key."""

    @cache
    def openapi() -> dict[str, Any]:
        document: dict[str, Any] = generate()
        bodies = {
            dialect.prefix + path: body
            for dialect in DIALECTS
            for path, body in dialect.bodies.items()
            if dialect.prefix + path in document["paths"]
        }
        models = [
            model for body in bodies.values() for each in body.values() for model in _models(each)
        ]
        _, schemas = models_json_schema(
            [(model, "validation") for model in dict.fromkeys(models)], ref_template=REFERENCE
        )
        document["components"]["schemas"] |= schemas["$defs"]
        for path, body in bodies.items():
            content = {
                media_type: _content(each, schemas["$defs"]) for media_type, each in body.items()
            }
            document["paths"][path]["post"]["requestBody"] = {"required": True, "content": content}
        _add_security(document, keyed)
        return document

    return openapi


def _add_security(document: dict[str, Any], keyed: bool) -> None:
    document["components"]["securitySchemes"] = {"ApiKey": API_KEY}
    if not keyed:
        return
    document["security"] = [{"ApiKey": []}]
    for path in PUBLIC_PATHS & document["paths"].keys():
        document["paths"][path].get("get", {})["security"] = []


def _content(body: Body, schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a body and its examples, which the API page offers to send."""
    examples = [each for model in _models(body) for each in schemas[model.__name__]["examples"]]
    content: dict[str, Any] = {"schema": _schema(body)}
    if examples:
        content["examples"] = {_example_title(each): {"value": each} for each in examples}
    return content


def _example_title(example: Any) -> str:
    """The example as JSON, its long strings cut."""
    text = json.dumps(_shortened(example), ensure_ascii=False)
    return text if len(text) <= MAX_EXAMPLE_TITLE else f"{text[: MAX_EXAMPLE_TITLE - 1]}…"


def _shortened(value: Any) -> Any:
    if isinstance(value, str) and len(value) > MAX_EXAMPLE_STRING:
        return f"{value[:MAX_EXAMPLE_STRING]}…"
    if isinstance(value, list):
        return [_shortened(each) for each in value]
    if isinstance(value, dict):
        return {name: _shortened(each) for name, each in value.items()}
    return value


def _models(body: Body) -> Iterator[type[BaseModel]]:
    """The models of a body; none if it is a JSON schema."""
    if not isinstance(body, Mapping):
        yield from get_args(body) if isinstance(body, UnionType) else (body,)


def _schema(body: Body) -> dict[str, Any]:
    if isinstance(body, Mapping):
        return dict(body)
    references = [{"$ref": REFERENCE.format(model=each.__name__)} for each in _models(body)]
    return references[0] if len(references) == 1 else {"anyOf": references}
