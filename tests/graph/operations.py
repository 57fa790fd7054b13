"""Each operation of `Ops`: a use of it, its meaning in plain numpy (float64), and inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.graph.emitters import Axes, Values

Draw = Callable[[np.random.Generator, int, int], dict[str, NDArray[Any]]]
Array = NDArray[Any]

RNG = np.random.default_rng(11)


def weight(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


def rows(*widths: int, count: int = 1) -> Draw:
    """x (y, …): float32 [batch, length, *widths]."""

    def draw(rng: np.random.Generator, batch: int, length: int) -> dict[str, Array]:
        shape = (batch, length, *widths)
        return {name: 2 * rng.standard_normal(shape).astype(np.float32) for name in "xyz"[:count]}

    return draw


def heads(number: int, width: int, names: str = "x") -> Draw:
    """float32 [batch, number, length, width] each; with m, a mask [batch, length]."""

    def draw(rng: np.random.Generator, batch: int, length: int) -> dict[str, Array]:
        shape = (batch, number, length, width)
        values: dict[str, Array] = {
            name: rng.standard_normal(shape).astype(np.float32) for name in names if name != "m"
        }
        return values | (masks(rng, batch, length) if "m" in names else {})

    return draw


def masks(rng: np.random.Generator, batch: int, length: int) -> dict[str, Array]:
    kept = rng.integers(1, length + 1, batch)
    return {"m": (np.arange(length) < kept[:, None]).astype(np.int32)}


def rows_and_mask(rng: np.random.Generator, batch: int, length: int) -> dict[str, Array]:
    return rows(6)(rng, batch, length) | masks(rng, batch, length)


def ids(rng: np.random.Generator, batch: int, length: int) -> dict[str, Array]:
    return {"ids": rng.integers(0, 9, (batch, length)).astype(np.int32)}


def images(channels: int, side: int = 9) -> Draw:
    def draw(rng: np.random.Generator, batch: int, _: int) -> dict[str, Array]:
        return {"x": rng.standard_normal((batch, channels, side, side)).astype(np.float32)}

    return draw


def colours(rng: np.random.Generator, batch: int, _: int) -> dict[str, Array]:
    return {"x": rng.integers(0, 256, (batch, 5, 5, 3)).astype(np.uint8)}


def places(rng: np.random.Generator, batch: int, length: int) -> dict[str, Array]:
    chosen = rng.integers(0, length, batch).astype(np.int32)
    return rows(6)(rng, batch, length) | {"p": chosen}


LENGTH: Axes = dict.fromkeys(("x", "y", "m", "ids"), (0, 1))
HEADS: Axes = {**dict.fromkeys("xqkv", (0, 2)), "m": (0, 1)}


@dataclass(frozen=True)
class Operation:
    """`use` and `meaning` take the inputs as attributes."""

    name: str
    use: Callable[[Any, Any], Any]
    meaning: Callable[[Any], Array]
    draw: Draw = field(default_factory=lambda: rows(6))
    dynamic: Axes = field(default_factory=lambda: LENGTH)

    def build(self, ops: Any, inputs: Mapping[str, Any]) -> Any:
        return self.use(ops, SimpleNamespace(**inputs))

    def expect(self, inputs: Values) -> Array:
        return self.meaning(SimpleNamespace(**inputs))


# What they mean.

erf = np.vectorize(math.erf)


def centre(x: Array) -> Array:
    return np.asarray(x - x.mean(-1, keepdims=True))


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))))


def softmax(x: Array, axis: int = -1) -> Array:
    raised = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(raised / raised.sum(axis, keepdims=True))


def gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def attend(q: Array, k: Array, v: Array, hidden: Array) -> Array:
    scores = np.einsum("bhld,bhsd->bhls", q, k) / math.sqrt(q.shape[-1])
    return np.asarray(np.einsum("bhls,bhsd->bhld", softmax(np.where(hidden, -np.inf, scores)), v))


def convolve(
    x: Array, kernel: Array, stride: tuple[int, int], pad: tuple[int, int, int, int], groups: int
) -> Array:
    """By the definition: each output place is a sum over its window."""
    top, left, bottom, right = pad
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right))).astype(np.float64)
    out, part, high, wide = kernel.shape
    rows_, columns = (x.shape[2] - high) // stride[0] + 1, (x.shape[3] - wide) // stride[1] + 1
    y = np.zeros((len(x), out, rows_, columns))
    for channel in range(out):
        first = channel // (out // groups) * part
        for r in range(rows_):
            for c in range(columns):
                top_, left_ = r * stride[0], c * stride[1]
                window = x[:, first : first + part, top_ : top_ + high, left_ : left_ + wide]
                y[:, channel, r, c] = (window * kernel[channel]).sum((1, 2, 3))
    return y


def rotate(x: Array, theta: float) -> Array:
    """Pairs (i, i + half) turned by place * theta^(-2i / width)."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[2])[:, None] * theta ** (-np.arange(half) / half)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)


def first_where(hit: Array) -> Array:
    return np.asarray(np.where(hit.any(1), hit.argmax(1), hit.shape[1] - 1))
