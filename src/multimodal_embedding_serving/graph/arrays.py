"""Weights for an emitter: stored tensors and computed arrays behind one interface."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.checkpoints.weights import StoredTensor
from multimodal_embedding_serving.graph.ops import Array, Pair


def float32(value: Array) -> NDArray[np.float32]:
    """The values as float32; a view if they are float32 already."""
    if isinstance(value, StoredTensor):
        return value.float32()
    return np.asarray(value, np.float32)


def rows(value: Array, block: slice | NDArray[np.integer]) -> Array:
    """Some rows of a weight, in its stored type."""
    if isinstance(value, StoredTensor):
        part = value.data[block]
        return replace(value, data=part, shape=part.shape)
    return value[block]


def sides(padding: int | Pair | tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """A convolution's padding as (top, left, bottom, right)."""
    if isinstance(padding, int):
        return (padding,) * 4
    return (*padding, *padding) if len(padding) == 2 else padding
