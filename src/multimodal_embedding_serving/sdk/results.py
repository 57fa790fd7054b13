"""What the verbs return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

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


@dataclass(frozen=True, slots=True)
class Classification:
    """The result of `classify`."""

    labels: list[str]
    scores: NDArray[np.float64]
    """[items, labels], 0 to 1, in the order of the argument and of `labels`."""
    calibrated: bool
    """False: the model has no learned scale, so only the order of the scores is meaningful."""

    @property
    def best(self) -> list[str]:
        """The label with the highest score of each item."""
        return [self.labels[place] for place in self.scores.argmax(axis=1)]

    def __repr__(self) -> str:
        items, labels = self.scores.shape
        return f"Classification({items} items, {labels} labels)"


@dataclass(frozen=True, slots=True)
class Ranked:
    """A document of `rerank`."""

    index: int
    """Position in the argument, from 0."""
    score: float
