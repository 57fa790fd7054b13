"""From a tower's item results to the result of one input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from multimodal_embedding_serving.batching.tower import ItemResult
from multimodal_embedding_serving.errors import (
    DeadlineExceeded,
    EmbeddingError,
    InvalidInput,
    NotReady,
    QueueFull,
)
from multimodal_embedding_serving.inputs.items import FrameInfo, ItemBatch, Skipped
from multimodal_embedding_serving.types import Vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingResult:
    """The result of one input."""

    vectors: Vectors
    many: bool
    """False: one input, one vector (`vectors` has one row)."""
    tokens: int
    truncated: bool
    frames: list[FrameInfo] | None = None
    """One for each vector; for a pooled vector, the frames that were averaged."""
    skipped: list[Skipped] = field(default_factory=list)
    """Sampled or listed frames without a vector."""


def assemble(
    batch: ItemBatch, results: Sequence[ItemResult], size: int, index: int | None = None
) -> EmbeddingResult:
    """Vectors of `size` numbers in the response's order, with their frames and the skipped ones.

    `index` is the input's among several. Raises the first item's error, and InvalidInput if no
    sampled frame of a video could be decoded, whether its vectors are pooled or not.
    """
    if not batch.skip_errors:
        for place, result in enumerate(results):
            if result.error is not None:
                inner = place if batch.many else None
                raise set_index(result.error, inner if index is None else index)
    places = [place for place in range(len(results)) if _has_vector(batch, place, results[place])]
    if batch.order is not None:
        places.sort(key=batch.order.__getitem__)
    if batch.skipped and not places:
        raise set_index(_nothing_left(batch), index)
    rows = [vector for place in places if (vector := results[place].vector) is not None]
    vectors = np.stack(rows) if rows else np.empty((0, size), np.float32)
    if batch.pooled:
        vectors = vectors.mean(axis=0, keepdims=True)
    if batch.pooled or size < vectors.shape[1]:
        vectors = renormalize(vectors[:, :size])
    return EmbeddingResult(
        vectors=vectors,
        many=batch.many,
        tokens=sum(results[place].tokens for place in places),
        truncated=any(results[place].truncated for place in places),
        frames=None if batch.frames is None else [batch.frames[place] for place in places],
        skipped=batch.skipped,
    )


def renormalize(vectors: Vectors) -> Vectors:
    """Scale rows [n, dimension] to unit length. Raises InvalidInput for a row of zeros."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.all():
        raise InvalidInput("cannot mean-pool: the frame embeddings sum to zero")
    unit: Vectors = (vectors / norms).astype(np.float32)
    return unit


def set_index(error: EmbeddingError, index: int | None) -> EmbeddingError:
    """Set the index of the item at fault; errors about the service itself have none."""
    if index is not None and not isinstance(error, QueueFull | NotReady | DeadlineExceeded):
        error.index = index
    return error


MAX_NAMED_FRAMES = 8
"""Frame numbers in a message."""


def _nothing_left(batch: ItemBatch) -> EmbeddingError:
    """The error if no frame has a vector: of a manifest, that of its first entry."""
    if batch.skip_errors:
        return batch.skipped[0].error
    numbers = ", ".join(str(each.frame_number) for each in batch.skipped[:MAX_NAMED_FRAMES])
    more = ", ..." if len(batch.skipped) > MAX_NAMED_FRAMES else ""
    return InvalidInput(
        f"the video is damaged: none of the sampled frames ({numbers}{more}) could be decoded; "
        "sample others with segment_config, or send an undamaged file"
    )


def _has_vector(batch: ItemBatch, place: int, result: ItemResult) -> bool:
    """Whether an item has a vector; an unreadable frame is added to the skipped ones instead."""
    if result.error is None:
        return True
    if result.error.status >= 429 or not batch.skip_errors or batch.frames is None:
        raise result.error
    frame = batch.frames[place]
    batch.skipped.append(Skipped(frame.index, frame.timestamp, result.error))
    return False
