"""The shapes on the wire, as validated and as documented; input kinds are in `inputs.kinds`."""

from __future__ import annotations

import builtins
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from multimodal_embedding_serving.api.truncation import Truncate
from multimodal_embedding_serving.api.vectors import Encoding
from multimodal_embedding_serving.inputs.kinds import Input, WireModel

Strings = Annotated[list[str], Field(fail_fast=True)]

_PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mN+1mPz/BsDg4"
    "2cyIc7JwAuVAaRD5JZ+AAAAABJRU5ErkJggg=="
)
"""Two by two pixels."""
_FILM = (
    "data:video/mp4;base64,R0lGODlhEAAQAIEAAP8AAAAAAAAAAAAAACH5BAAKAAAALAAAAAAQABAAAAgdAAEIHEiwoMGD"
    "CBMqXMiwocOHECNKnEixosWBAQEAIfkEAQoAAQAsAAAAABAAEACBAAD/AAAAAAAAAAAACB0AAQgcSLCgwYMIEypcyLChw4cQ"
    "I0qcSLGixYEBAQA7"
)
"""Two frames, red and blue."""


_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_PARTS = ("text", "image", "video", "image_url", "video_url")
_ITEM: dict[str, Any] = {
    "anyOf": [
        _TEXT,
        {
            "type": "object",
            "description": "One of text, image, video; or a chat-content part with its type.",
            "properties": {
                name: {"anyOf": [_TEXT, {"type": "object", "properties": {"url": _TEXT}}]}
                for name in _PARTS
            },
            "minProperties": 1,
        },
    ]
}
_TOKENS: dict[str, Any] = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_INPUT = {
    "anyOf": [
        *_ITEM["anyOf"],
        {"type": "array", "items": _ITEM, "minItems": 1},
        _TOKENS,
        {"type": "array", "items": _TOKENS, "minItems": 1},
    ]
}


class EmbeddingsRequest(WireModel):
    """POST /embeddings."""

    model: str | None = None
    """Any spelling of the loaded model; missing: the loaded one."""
    input: Input
    encoding_format: str | None = "float"
    """float, or base64 of little-endian float32; any other string counts as float."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input": {"type": "text", "text": "a cat on a sofa"}},
                {"input": {"type": "text", "text": ["first document", "second document"]}},
                {"input": {"type": "image_url", "image_url": _PICTURE}},
                {"input": {"type": "image_base64", "image_base64": [_PICTURE, _PICTURE]}},
                {
                    "input": {
                        "type": "video_base64",
                        "video_base64": _FILM,
                        "segment_config": {"num_frames": 8},
                    }
                },
            ]
        }
    )


class OpenAIRequest(WireModel):
    """POST /v1/embeddings."""

    model: str | None = None
    input: Annotated[Any, WithJsonSchema(_INPUT)]
    """A string, a list of strings, or a list of items: {"text"}, {"image"}, {"video"}, chat-content
    parts, data URIs, mixed freely."""
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(default=None, ge=1, le=2**31)
    user: str | None = None
    input_type: Literal["query", "document", "passage"] | None = None
    instruction: str | None = None
    """The task, for models that take one with a query."""
    task: str | None = None
    """Jina's: `….query` and `….passage` say what texts are, other tasks change nothing."""
    embedding_type: Encoding | None = None
    """Jina's: goes before encoding_format, and has the forms of whole numbers too."""
    truncate: Truncate | bool | None = None
    """NVIDIA's NONE, Jina's false: refuse a text that is longer than the model reads."""
    modality: str | Strings | None = None
    """What plain strings are: text (default), image or video; or a list, one for each item."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input": "a cat on a sofa"},
                {
                    "input": ["a cat", {"image": _PICTURE}, {"video": _FILM}],
                    "encoding_format": "base64",
                },
            ]
        }
    )


class CohereInput(WireModel):
    content: str | Annotated[list[dict[str, Any]], Field(fail_fast=True)]
    """Parts: {"type": "text", "text": …}, {"type": "image_url", "image_url": {"url": …}}."""


class CohereRequest(WireModel):
    """POST /v2/embed."""

    model: str | None = None
    texts: Strings | None = None
    images: Strings | None = None
    """Data URIs, base64, or URLs."""
    inputs: Annotated[list[CohereInput], Field(fail_fast=True)] | None = None
    input_type: (
        Literal["search_query", "search_document", "classification", "clustering", "image"] | None
    ) = None
    embedding_types: Annotated[list[Encoding], Field(fail_fast=True)] | None = None
    output_dimension: int | None = Field(default=None, ge=1, le=2**31)
    truncate: Truncate | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"texts": ["a cat", "a cup of coffee"], "input_type": "search_document"},
                {"images": [_PICTURE], "embedding_types": ["float", "int8", "ubinary"]},
                {
                    "inputs": [
                        {
                            "content": [
                                {"type": "text", "text": "a cat"},
                                {"type": "image_url", "image_url": {"url": _PICTURE}},
                            ]
                        }
                    ]
                },
            ]
        }
    )


class FrameAnswer(BaseModel):
    index: int
    timestamp: float
    """Seconds."""


class SkippedAnswer(BaseModel):
    frame_number: int
    error: str


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int
    truncated: bool = False
    """A text was longer than the model's limit and was cut."""


class EmbeddingsAnswer(BaseModel):
    embedding: list[float] | list[list[float]] | str | list[str]
    model: str
    usage: Usage
    frames: list[FrameAnswer] | None = None
    skipped: list[SkippedAnswer] | None = None


class OpenAIEmbedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    """Whole numbers where embedding_type asks for them."""


class OpenAIAnswer(BaseModel):
    object: Literal["list"]
    data: list[OpenAIEmbedding]
    model: str
    usage: Usage


class OpenAIModel(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class OpenAIModels(BaseModel):
    object: Literal["list"]
    data: list[OpenAIModel]


class HealthAnswer(BaseModel):
    status: Literal["healthy"]


class ModelsAnswer(BaseModel):
    current_model: str
    available_models: dict[str, list[str]]
    total_models: int


class CurrentModel(BaseModel):
    model: str
    device: str
    use_openvino: bool
    backend: str
    precision: str
    inference_precision: str
    dynamic_quantization_group_size: int
    dimension: int
    fingerprint: str
    text_length: int | None = None
    image_size: int | None = None
    logit_scale: float | None = None
    logit_bias: float | None = None
    notice: str | None = None
    notices: list[str]
    parity: dict[str, Any] | None = None


class Capabilities(BaseModel):
    model: str
    modalities: list[str]
    supports_text: bool
    supports_image: bool
    supports_video: bool


class ErrorAnswer(BaseModel):
    detail: str
    code: str
    index: int | None = None


class OpenAIErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIErrorAnswer(BaseModel):
    error: OpenAIErrorDetail


class CohereEmbeddings(BaseModel):
    float: list[list[builtins.float]] | None = None
    base64: list[str] | None = None
    int8: list[list[int]] | None = None
    uint8: list[list[int]] | None = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None


class CohereAnswer(BaseModel):
    id: str
    embeddings: CohereEmbeddings
    texts: list[str]
    meta: dict[str, Any]
    response_type: Literal["embeddings_by_type"]


class CohereErrorAnswer(BaseModel):
    message: str
    code: str
