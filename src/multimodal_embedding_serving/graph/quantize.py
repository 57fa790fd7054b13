"""Quantizes weights row by row: asymmetric, per output channel, without calibration.

A row w becomes unsigned integers q with w ~ (q - zero) * scale. Zero is always exact, so that
sparse rows stay sparse. With 4 bits, each run of 64 weights has its own zero and scale (half the
error on a table). Rows are processed in blocks, so that a large table is never copied to float32 as
a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.graph.arrays import float32, rows
from multimodal_embedding_serving.graph.ops import Array

BLOCK_BYTES = 4 << 20
GROUP = 64
"""Weights that share a scale at 4 bits, if the row's width is a multiple of it."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """Levels [rows, width] (4 bits: two per byte, low half first); zero, scale [rows, groups]."""

    levels: NDArray[np.uint8]
    zero: NDArray[np.uint8]
    scale: NDArray[np.float32]
    shape: tuple[int, ...]


def quantize(weight: Array, bits: Literal[4, 8]) -> Quantized:
    """Quantize weight [rows, ...] per row to `bits`; 4 bits require rows of even width."""
    shape = tuple(weight.shape)
    count, width = shape[0], int(np.prod(shape[1:]))
    group = GROUP if bits == 4 and width % GROUP == 0 else width
    packed = width // 2 if bits == 4 else width
    levels = np.empty((count, packed), np.uint8)
    zero = np.empty((count, width // group), np.uint8)
    scale = np.empty((count, width // group), np.float32)
    step = max(1, BLOCK_BYTES // (4 * width))
    for start in range(0, count, step):
        block = slice(start, min(start + step, count))
        values = float32(rows(weight, block)).reshape(-1, group)
        q, zeros, scales = _quantize_rows(values, 2**bits - 1)
        zero[block] = zeros.reshape(-1, width // group)
        scale[block] = scales.reshape(-1, width // group)
        q = q.reshape(-1, width)
        levels[block] = (q[:, 0::2] | (q[:, 1::2] << 4)) if bits == 4 else q
    return Quantized(levels, zero, scale, shape)


def _quantize_rows(
    values: NDArray[np.float32], top: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    low = np.minimum(values.min(axis=1), 0)
    high = np.maximum(values.max(axis=1), 0)
    scale = (high - low) / np.float32(top)
    scale[scale == 0] = 1
    zero = np.clip(np.rint(-low / scale), 0, top)
    levels = values / scale[:, None]
    np.rint(levels, out=levels)
    levels += zero[:, None]
    np.clip(levels, 0, top, out=levels)
    return levels.astype(np.uint8), zero.astype(np.uint8), scale
