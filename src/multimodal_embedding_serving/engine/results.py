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
    plan: ItemBatch, outcomes: Sequence[ItemResult], size: int, index: int | None = None
) -> EmbeddingResult:
    """Vectors of `size` numbers in the answer's order, with their frames and those left out.

    `index` names the input among several. Raises the first item's error.
    """
    if plan.skipped is None:
        for place, outcome in enumerate(outcomes):
            if outcome.error is not None:
                inner = place if plan.many else None
                raise named(outcome.error, inner if index is None else index)
    places = range(len(outcomes))
    kept = [place for place in places if _keep(plan, place, outcomes[place])]
    if plan.order is not None:
        kept.sort(key=plan.order.__getitem__)
    if plan.skipped and not kept:
        raise named(plan.skipped[0].error, index)
    rows = [vector for place in kept if (vector := outcomes[place].vector) is not None]
    vectors = np.stack(rows) if rows else np.empty((0, size), np.float32)
    if plan.pooled:
        vectors = vectors.mean(axis=0, keepdims=True)
    if plan.pooled or size < vectors.shape[1]:
        vectors = renormalize(vectors[:, :size])
    return EmbeddingResult(
        vectors=vectors,
        many=plan.many,
        tokens=sum(outcomes[place].tokens for place in kept),
        truncated=any(outcomes[place].truncated for place in kept),
        frames=None if plan.frames is None else [plan.frames[place] for place in kept],
        skipped=plan.skipped,
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


def _keep(plan: ItemBatch, place: int, outcome: ItemResult) -> bool:
    """Whether an outcome is a vector; a frame that can't be read is put among the skipped."""
    if outcome.error is None:
        return True
    if outcome.error.status >= 429 or plan.skipped is None or plan.frames is None:
        raise outcome.error
    plan.skipped.append(Skipped(plan.frames[place].index, outcome.error))
    return False
