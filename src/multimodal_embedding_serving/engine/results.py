"""From a tower's outcomes to the answer of one input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """The answer to one input."""

    vectors: Vectors
    many: bool
    """False: one input, one vector (`vectors` has one row)."""
    tokens: int
    truncated: bool
    frames: list[FrameInfo] | None = None
    """One for each vector; for a pooled one, the frames that it is the mean of."""
    skipped: list[Skipped] | None = None


def assemble(
    batch: ItemBatch, results: Sequence[ItemResult], size: int, index: int | None = None
) -> EmbeddingResult:
    """Vectors of `size` numbers in the answer's order, with their frames and those left out.

    `index` names the input among several. Raises the first item's error.
    """
    if batch.skipped is None:
        for place, result in enumerate(results):
            if result.error is not None:
                inner = place if batch.many else None
                raise named(result.error, inner if index is None else index)
    places = range(len(results))
    kept = [place for place in places if _keep(batch, place, results[place])]
    if batch.order is not None:
        kept.sort(key=batch.order.__getitem__)
    if batch.skipped and not kept:
        raise named(batch.skipped[0].error, index)
    rows = [vector for place in kept if (vector := results[place].vector) is not None]
    vectors = np.stack(rows) if rows else np.empty((0, size), np.float32)
    if batch.pooled:
        vectors = vectors.mean(axis=0, keepdims=True)
    if batch.pooled or size < vectors.shape[1]:
        vectors = renormalize(vectors[:, :size])
    return EmbeddingResult(
        vectors=vectors,
        many=batch.many,
        tokens=sum(results[place].tokens for place in kept),
        truncated=any(results[place].truncated for place in kept),
        frames=None if batch.frames is None else [batch.frames[place] for place in kept],
        skipped=batch.skipped,
    )


def renormalize(vectors: Vectors) -> Vectors:
    """Rows at unit length again. Raises InvalidInput for a row that has none (a mean of zero)."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not norms.all():
        raise InvalidInput("the frames' vectors cancel out: there is no mean direction")
    unit: Vectors = (vectors / norms).astype(np.float32)
    return unit


def named(error: EmbeddingError, index: int | None) -> EmbeddingError:
    """The error with the item it is about; those that are about the service name none."""
    if index is not None and not isinstance(error, QueueFull | NotReady | DeadlineExceeded):
        error.index = index
    return error


def _keep(batch: ItemBatch, place: int, result: ItemResult) -> bool:
    """Whether an outcome is a vector; a frame that can't be read is put among the skipped."""
    if result.error is None:
        return True
    if result.error.status >= 429 or batch.skipped is None or batch.frames is None:
        raise result.error
    batch.skipped.append(Skipped(batch.frames[place].index, result.error))
    return False
