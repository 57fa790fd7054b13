"""What the verbs return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.types import Vectors

T = TypeVar("T", Vectors, list[Vectors])


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """A frame of a video that was embedded."""

    index: int
    """Number of the frame in presentation order, from 0."""
    timestamp: float
    """Seconds from the video's start."""


class VideoVectors(NamedTuple):
    """The vectors of a video's frames, and the frames."""

    vectors: Vectors
    """[frames, dimension]; [1, dimension] if the segment asks for pooling."""
    frames: list[VideoFrame]
    """The frame of each vector; with pooling, the frames that went into it."""


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """An item of a call that could not be embedded."""

    index: int
    """Position in the argument, from 0."""
    source: str
    """The item's path or URL; empty for a text, bytes, an image object or an array."""
    error: EmbeddingError


@dataclass(frozen=True, slots=True)
class PartialResult(Generic[T]):
    """The result of a call with `on_error="skip"`."""

    vectors: T
    """float32 [rows, dimension]; of a list of videos, one such array per embedded video."""
    indexes: list[int]
    """For each element of `vectors`, the position of its item in the argument."""
    failures: list[ItemFailure]
    """The items that have no vector, in the argument's order."""

    def __repr__(self) -> str:
        return f"PartialResult({len(self.vectors)} vectors, {len(self.failures)} failures)"
