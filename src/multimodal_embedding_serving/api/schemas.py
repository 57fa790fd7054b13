"""Request and response bodies, as validated and as documented; see `inputs.kinds` for inputs."""

from __future__ import annotations

import builtins
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from multimodal_embedding_serving.api.truncation import Truncate
from multimodal_embedding_serving.api.vectors import Encoding, OutputType
from multimodal_embedding_serving.inputs.kinds import Input, WireModel

Strings = Annotated[list[str], Field(fail_fast=True)]
Dimensions = Annotated[
    int | None, Field(ge=0, le=2**31), AfterValidator(lambda value: value or None)
]
"""The length of the vectors; 0, which infinity's client sends with every request, means None."""

EXAMPLE_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mN+1mPz/BsDg4"
    "2cyIc7JwAuVAaRD5JZ+AAAAABJRU5ErkJggg=="
)
"""Two by two pixels."""
_ANIMATION = (
    "data:image/gif;base64,R0lGODlhEAAQAIEAAP8AAAAAAAAAAAAAACH5BAAKAAAALAAAAAAQABAAAAgdAAEIHEiwoMGD"
    "CBMqXMiwocOHECNKnEixosWBAQEAIfkEAQoAAQAsAAAAABAAEACBAAD/AAAAAAAAAAAACB0AAQgcSLCgwYMIEypcyLChw4cQ"
    "I0qcSLGixYEBAQA7"
)
"""A GIF of two frames, red and blue: the smallest file that is decoded as a video."""


_TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
_PARTS = ("text", "image", "video", "image_url", "video_url")
ITEM_SCHEMA: dict[str, Any] = {
    "anyOf": [
        _TEXT,
        {
            "type": "object",
            "description": "An object with text, image or video, or a chat-content part.",
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
        *ITEM_SCHEMA["anyOf"],
        {"type": "array", "items": ITEM_SCHEMA, "minItems": 1},
        _TOKENS,
        {"type": "array", "items": _TOKENS, "minItems": 1},
    ]
}


class EmbeddingsRequest(WireModel):
    """POST /embeddings."""

    model: str | None = None
    """Any name of the loaded model; it may be omitted."""
    input: Input
    encoding_format: str | None = "float"
    """float, or base64 of little-endian float32; any other string means float."""
    dimensions: Dimensions = None
    """The length of the vectors, for models that allow it; the model's own if it is omitted."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input": {"type": "text", "text": "a cat on a sofa"}},
                {"input": {"type": "text", "text": ["first document", "second document"]}},
                {"input": {"type": "image_url", "image_url": EXAMPLE_IMAGE}},
                {"input": {"type": "image_base64", "image_base64": [EXAMPLE_IMAGE, EXAMPLE_IMAGE]}},
                {
                    "input": {
                        "type": "video_base64",
                        "video_base64": _ANIMATION,
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
    parts and data URIs, in any mix."""
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: Dimensions = None
    user: str | None = None
    input_type: Literal["query", "document", "passage"] | None = None
    instruction: str | None = None
    """The task, for models that take an instruction with a query."""
    task: str | None = None
    """Jina's: `….query` and `….passage` set the role of the texts; other tasks have no effect."""
    embedding_type: Encoding | None = None
    """Jina's: overrides encoding_format, and has integer encodings too."""
    encoding_type: Encoding | None = None
    """What LlamaIndex's client of Jina calls embedding_type."""
    late_chunking: bool | None = None
    """Jina's: true is rejected, because it would change the vectors."""
    output_dtype: OutputType | None = None
    """Voyage's embedding_type: its numbers are sent as base64 if encoding_format says so."""
    output_dimension: Dimensions = None
    """Voyage's dimensions."""
    truncation: bool | None = None
    """Voyage's truncate."""
    truncate: Truncate | bool | None = None
    """NVIDIA's NONE and Jina's false: reject a text that exceeds the model's maximum length."""
    modality: str | Strings | None = None
    """What plain strings are: text (default), image or video; or a list with one per item."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"input": "a cat on a sofa"},
                {
                    "input": ["a cat", {"image": EXAMPLE_IMAGE}, {"video": _ANIMATION}],
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
    """Data URIs, base64 or URLs."""
    inputs: Annotated[list[CohereInput], Field(fail_fast=True)] | None = None
    input_type: (
        Literal["search_query", "search_document", "classification", "clustering", "image"] | None
    ) = None
    embedding_types: Annotated[list[Encoding], Field(fail_fast=True)] | None = None
    output_dimension: Dimensions = None
    truncate: Truncate | None = None

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"texts": ["a cat", "a cup of coffee"], "input_type": "search_document"},
                {"images": [EXAMPLE_IMAGE], "embedding_types": ["float", "int8", "ubinary"]},
                {
                    "inputs": [
                        {
                            "content": [
                                {"type": "text", "text": "a cat"},
                                {"type": "image_url", "image_url": {"url": EXAMPLE_IMAGE}},
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
    index: int
    """The same as frame_number."""
    timestamp: float
    """Seconds."""
    error: str


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int
    truncated: bool = False
    """A text was longer than the model's limit and was truncated."""


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
    """Integers if embedding_type or output_dtype selects an integer encoding."""


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
    jpeg_decode: Literal["exact", "fast"] | None = None
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
    detail: str
    """The message again, where the clients of Voyage and Jina look for it."""


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
