"""Options of /v1/embeddings that change the numbers, under all the names that clients use.

Voyage says `output_dimension` where OpenAI says `dimensions`, and so on. Each is honored or
rejected: a client that gets other numbers than it asked for decodes or stores them without an
error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from multimodal_embedding_serving.api.schemas import OpenAIRequest
from multimodal_embedding_serving.api.vectors import OutputType
from multimodal_embedding_serving.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class VectorOptions:
    """How the vectors of a response are made and written."""

    dimensions: int | None
    numbers: OutputType
    packed: bool
    """The numbers are sent as base64 of their bytes."""


def read_options(request: OpenAIRequest) -> VectorOptions:
    """The options of a request. Raises InvalidInput for contradictions and for late chunking."""
    if request.late_chunking:
        message = "late_chunking: is not supported; send each chunk as an item, or false"
        raise InvalidInput(message, param="late_chunking")
    dimensions = _agreed(request, "dimensions", "output_dimension")
    kind = _agreed(request, "embedding_type", "encoding_type", "output_dtype")
    packed = request.encoding_format == "base64"
    if kind == "base64":
        return VectorOptions(dimensions, "float", packed=True)
    # Jina's option overrides encoding_format; Voyage's is sent beside it, and both count.
    jina = request.embedding_type or request.encoding_type
    return VectorOptions(dimensions, kind or "float", packed=packed and not jina)


def _agreed(request: OpenAIRequest, *names: str) -> Any:
    """The value of an option that has several names; None if it is not set."""
    values = {name: value for name in names if (value := getattr(request, name)) is not None}
    if len(set(values.values())) > 1:
        (first, _), (other, _), *_ = values.items()
        message = f"{other}: contradicts {first}, which means the same; send one of them"
        raise InvalidInput(message, param=other)
    return next(iter(values.values()), None)
