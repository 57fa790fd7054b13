"""Bodies of /classify, /score and rerank requests, and of their responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from multimodal_embedding_serving.api.schemas import EXAMPLE_IMAGE, ITEM_SCHEMA, Strings, Usage
from multimodal_embedding_serving.inputs.kinds import WireModel
from multimodal_embedding_serving.sdk.similarity import Activation

_ITEMS = {"anyOf": [*ITEM_SCHEMA["anyOf"], {"type": "array", "items": ITEM_SCHEMA, "minItems": 1}]}
Item = Annotated[Any, WithJsonSchema(ITEM_SCHEMA)]
Items = Annotated[Any, WithJsonSchema(_ITEMS)]


class ClassifyRequest(WireModel):
    """POST /classify."""

    model: str | None = None
    input: Items = None
    """An item or a list of them, as in /v1/embeddings: strings, {"text"}, {"image"}, {"video"}."""
    images: Items = None
    """In place of input: strings in it are images (URLs, data URIs or base64)."""
    labels: Annotated[Strings, Field(min_length=1)]
    template: str | Strings | None = None
    """`{}` stands for the label. Default: `{}` for texts, `a photo of a {}` for images and videos.
    The vectors of several templates are averaged."""
    activation: Activation | None = None
    """softmax: the scores of an input sum to 1. sigmoid: each label stands alone. Default: the one
    that the model was trained with."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"input": "the striker scored twice", "labels": ["sports", "politics"]},
                {"images": [EXAMPLE_IMAGE], "labels": ["a cat", "a dog"], "template": "{}"},
            ]
        },
    )


class ScoreRequest(WireModel):
    """POST /score."""

    model: str | None = None
    query: Item = None
    text_1: Item = None
    """Another name of query."""
    documents: Items = None
    text_2: Items = None
    """Another name of documents."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"query": "a cat", "documents": ["a kitten", {"image": EXAMPLE_IMAGE}]},
                {"text_1": {"image": EXAMPLE_IMAGE}, "text_2": "a square"},
            ]
        },
    )


class RerankRequest(WireModel):
    """POST /v1/rerank and /v2/rerank."""

    model: str | None = None
    query: Item
    documents: Annotated[list[Item], Field(min_length=1)]
    """Strings, or objects with text, image or video."""
    top_n: int | None = Field(default=None, ge=0)
    """Results to return; 0 or none: all."""
    return_documents: bool | None = False
    rank_fields: Strings | None = None
    """Cohere's: only ["text"], the field that is ranked in any case."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "how do cats sleep?",
                    "documents": ["Cats sleep for most of the day.", "Coffee is a drink."],
                    "top_n": 1,
                    "return_documents": True,
                },
                {"query": {"image": EXAMPLE_IMAGE}, "documents": ["a square", "a circle"]},
            ]
        }
    )


class Classified(BaseModel):
    index: int
    label: str
    """The label with the highest score."""
    scores: list[float]
    """One per label, in the order of labels."""


class ClassifyAnswer(BaseModel):
    object: Literal["list"]
    model: str
    labels: list[str]
    activation: Activation
    calibrated: bool
    """False: the model learned no scale, so only the order of the scores is meaningful."""
    data: list[Classified]
    usage: Usage


class Scored(BaseModel):
    object: Literal["score"]
    index: int
    score: float
    """Cosine, -1 to 1."""


class ScoreAnswer(BaseModel):
    object: Literal["list"]
    model: str
    data: list[Scored]
    usage: Usage


class RerankResult(BaseModel):
    index: int
    relevance_score: float
    """Cosine, -1 to 1."""
    document: dict[str, Any] | None = None


class RerankAnswer(BaseModel):
    id: str
    object: Literal["rerank"]
    model: str
    results: list[RerankResult]
    """Highest score first, equal scores by index."""
    usage: Usage
    meta: dict[str, Any]
