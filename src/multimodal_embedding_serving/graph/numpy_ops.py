"""The emitter that computes eagerly, in float32 and little memory: the reference of parity checks.

Each weight is read from the mapped checkpoint when its operation runs and dropped afterwards, so
that a model of any size needs only the memory of its activations and of one layer. It is slow and
plain, and shares no kernel with OpenVINO, which is the point of a reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from multimodal_embedding_serving.graph.arrays import float32, rows, sides
from multimodal_embedding_serving.graph.ops import Array, Pair

Value = Any
"""A NumPy array; NumPy's own types say too little about what its operators return."""
ROWS = 8192
"""Rows of a matrix that are converted to float32 at a time."""
QUERIES = 256
"""Queries of a causal attention whose scores are held at a time."""


class NumpyOps:
    """`Ops` on NumPy arrays."""

    # ── weights ──
    def constant(self, value: Array) -> Value:
        return float32(value)

    def linear(self, x: Value, weight: Array, bias: Array | None = None) -> Value:
        flat = x.reshape(-1, x.shape[-1])  # as one matrix: NumPy would multiply item by item
        parts = [
            flat @ float32(rows(weight, slice(k, k + ROWS))).T
            for k in range(0, weight.shape[0], ROWS)
        ]
        y = parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
        y = y.reshape(*x.shape[:-1], -1)
        return y if bias is None else y + float32(bias)

    def project(self, x: Value, matrix: Array) -> Value:
        return x @ float32(matrix)

    def embedding(self, ids: Value, table: Array) -> Value:
        flat = ids.reshape(-1)
        return float32(rows(table, flat)).reshape(*ids.shape, -1)

    def conv2d(
        self,
        x: Value,
        weight: Array,
        bias: Array | None = None,
        *,
        stride: int | Pair = 1,
        padding: int | Pair | tuple[int, int, int, int] = 0,
        groups: int = 1,
    ) -> Value:
        top, left, bottom, right = sides(padding)
        down, across = stride if isinstance(stride, tuple) else (stride, stride)
        kernel = float32(weight)
        out, _, high, wide = kernel.shape
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        windows = sliding_window_view(x, (high, wide), (2, 3))[:, :, ::down, ::across]
        batch, channels, *places = windows.shape[:4]
        windows = windows.reshape(batch, groups, channels // groups, *places, high, wide)
        kernel = kernel.reshape(groups, out // groups, -1, high, wide)
        y = np.einsum("bgcyxhw,gochw->bgoyx", windows, kernel, optimize=True)
        y = y.reshape(batch, out, *places)
        return y if bias is None else y + float32(bias).reshape(1, -1, 1, 1)

    def layer_norm(self, x: Value, weight: Array, bias: Array, eps: float) -> Value:
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(-1, keepdims=True) + np.float32(eps))
        return centred / spread * float32(weight) + float32(bias)

    def rms_norm(self, x: Value, weight: Array, eps: float) -> Value:
        root = np.sqrt((x * x).mean(-1, keepdims=True) + np.float32(eps))
        return x / root * float32(weight)

    # ── element by element ──
    def add(self, x: Value, y: Value) -> Value:
        return x + y

    def subtract(self, x: Value, y: Value) -> Value:
        return x - y

    def multiply(self, x: Value, y: Value) -> Value:
        return x * y

    def scale(self, x: Value, factor: float) -> Value:
        return x * np.float32(factor)

    def gelu(self, x: Value, approximate: Literal["none", "tanh"] = "none") -> Value:
        if approximate == "tanh":
            inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
            return np.float32(0.5) * x * (1 + np.tanh(inner))
        return np.float32(0.5) * x * (1 + erf(x / np.float32(np.sqrt(2))))

    def quick_gelu(self, x: Value) -> Value:
        return x * self.sigmoid(np.float32(1.702) * x)

    def silu(self, x: Value) -> Value:
        return x * self.sigmoid(x)

    def relu(self, x: Value) -> Value:
        return np.maximum(x, 0)

    def relu6(self, x: Value) -> Value:
        return np.clip(x, 0, 6)

    def sigmoid(self, x: Value) -> Value:
        return np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))

    def tanh(self, x: Value) -> Value:
        return np.tanh(x)

    def softmax(self, x: Value, axis: int = -1) -> Value:
        raised = np.exp(x - x.max(axis, keepdims=True))
        return raised / raised.sum(axis, keepdims=True)

    # ── attention ──
    def attention(
        self, q: Value, k: Value, v: Value, *, causal: bool = False, mask: Value | None = None
    ) -> Value:
        scores = q @ k.swapaxes(-1, -2) * np.float32(q.shape[-1] ** -0.5)
        if causal:
            seen = np.tri(q.shape[2], k.shape[2], dtype=bool)
            scores = np.where(seen, scores, -np.inf)
        if mask is not None:
            scores = np.where(mask[:, None, None, :] == 1, scores, -np.inf)
        return self.softmax(scores) @ v

    def rope(self, x: Value, theta: float) -> Value:
        length, width = x.shape[2:]
        frequency = theta ** -(np.arange(0, width, 2) / width)
        angles = np.arange(length)[:, None] * frequency
        cos = np.tile(np.cos(angles), 2).astype(np.float32)
        sin = np.tile(np.sin(angles), 2).astype(np.float32)
        first, second = np.split(x, 2, -1)
        return x * cos + np.concatenate([-second, first], -1) * sin

    def grouped_attention(self, q: Value, k: Value, v: Value, mask: Value | None = None) -> Value:
        times, length = q.shape[1] // k.shape[1], q.shape[2]
        k, v = k.repeat(times, 1), v.repeat(times, 1)
        blocks = []
        for start in range(0, length, QUERIES):
            stop = min(start + QUERIES, length)
            end = stop if mask is None else length
            if mask is None:
                visible = np.tri(stop - start, stop, start, dtype=bool)
            else:
                visible = mask[:, None, None, :] == 1
            scores = q[:, :, start:stop] @ k[:, :, :end].swapaxes(-1, -2)
            scores = np.where(visible, scores * np.float32(q.shape[-1] ** -0.5), -np.inf)
            blocks.append(self.softmax(scores) @ v[:, :, :end])
        return np.concatenate(blocks, 2)

    def by_tokens(self, x: Value, apply: Callable[[Value], Value]) -> Value:
        return apply(x)  # in blocks, each weight would be read and widened once a block

    # ── shape ──
    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        return x.reshape([x.shape[k] if size == 0 else size for k, size in enumerate(shape)])

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        return x.transpose(order)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        return np.concatenate(parts, axis)

    def crop(self, x: Value, axis: int, start: int, stop: int) -> Value:
        return x.swapaxes(0, axis)[start:stop].swapaxes(0, axis)

    def head_rows(self, table: Array, x: Value) -> Value:
        return float32(rows(table, slice(x.shape[1])))[None]

    def tile_batch(self, tokens: Array, x: Value) -> Value:
        return np.broadcast_to(float32(tokens), (x.shape[0], *tokens.shape))

    def take_place(self, x: Value, place: Value) -> Value:
        return x[np.arange(len(place)), place]

    # ── reduction ──
    def mean(self, x: Value, axes: Sequence[int], *, keep: bool = False) -> Value:
        return np.asarray(x.mean(tuple(axes), keepdims=keep))

    def masked_mean(self, x: Value, mask: Value, *, root: bool = False) -> Value:
        weight = mask[:, :, None].astype(np.float32)
        count = weight.sum(1)
        return np.asarray((x * weight).sum(1) / (np.sqrt(count) if root else count))

    def masked_max(self, x: Value, mask: Value) -> Value:
        return np.asarray(np.where(mask[:, :, None] == 1, x, -np.inf).max(1).astype(x.dtype))

    def position_mean(self, x: Value, mask: Value) -> Value:
        return self.masked_mean(x, mask * np.arange(1, mask.shape[1] + 1))

    def first_place(self, ids: Value, token: int) -> Value:
        return _first_where(ids == token)

    def last_place(self, mask: Value) -> Value:
        return mask.sum(1) - 1

    def max_place(self, ids: Value) -> Value:
        return np.asarray(ids.argmax(1))

    def l2_normalize(self, x: Value) -> Value:
        return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12))

    # ── pixels ──
    def pixels(self, x: Value, mean: Sequence[float], std: Sequence[float]) -> Value:
        scaled = (x / 255.0 - np.asarray(mean)) / np.asarray(std)
        return np.asarray(scaled.astype(np.float32).transpose(0, 3, 1, 2))


def erf(x: Value) -> Value:
    """The error function to within 1.5e-7 (Abramowitz & Stegun 1964, 7.1.26), in float64."""
    a = np.abs(x.astype(np.float64))
    t = 1 / (1 + 0.3275911 * a)
    series = t * (
        0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))
    )
    return np.asarray((np.sign(x) * (1 - series * np.exp(-a * a))).astype(np.float32))


def _first_where(hit: Value) -> Value:
    return np.asarray(np.where(hit.any(1), hit.argmax(1), hit.shape[1] - 1))
