"""The operations in which a family is written: a protocol with one implementation per emitter.

A family is a set of plain functions over `Ops[T]`, where T is the emitter's own tensor: a node of
an OpenVINO model (`openvino_ops.py`, builds a graph to be stored), a step of a torch program
(`torch_ops.py`) or a NumPy array (`numpy_ops.py`, computes eagerly). Shapes in the docstrings: B
batch, L positions (tokens or patches), W width, H heads, D head width, C channels. Everything
between a family's inputs and its output is float32 unless stated otherwise; how weights are stored
is up to the emitter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar

from numpy.typing import NDArray

from multimodal_embedding_serving.checkpoints.weights import StoredTensor

T = TypeVar("T")
Array = StoredTensor | NDArray[Any]
"""A weight: as stored in the checkpoint, or computed (folded, sliced) while building."""

Pair = tuple[int, int]


class Ops(Protocol[T]):
    # ── weights ──
    def constant(self, value: Array) -> T:
        """A small learned or computed array, float32."""
        ...

    def linear(self, x: T, weight: Array, bias: Array | None = None) -> T:
        """x [..., in] @ weight [out, in] transposed + bias [out]."""
        ...

    def project(self, x: T, matrix: Array) -> T:
        """x [..., in] @ matrix [in, out] (a projection that the checkpoint stores as `x @ P`)."""
        ...

    def embedding(self, ids: T, table: Array) -> T:
        """Rows of table [entries, W] at int32 ids [...] -> [..., W]."""
        ...

    def conv2d(
        self,
        x: T,
        weight: Array,
        bias: Array | None = None,
        *,
        stride: int | Pair = 1,
        padding: int | Pair | tuple[int, int, int, int] = 0,
        groups: int = 1,
    ) -> T:
        """x [B, C, h, w], weight [out, C / groups, kh, kw]; padding (top, left, bottom, right)."""
        ...

    def layer_norm(self, x: T, weight: Array, bias: Array, eps: float) -> T:
        """Over the last axis (Ba et al. 2016, arXiv 1607.06450)."""
        ...

    def rms_norm(self, x: T, weight: Array, eps: float) -> T:
        """Over the last axis (Zhang & Sennrich 2019, arXiv 1910.07467)."""
        ...

    # ── element by element ──
    def add(self, x: T, y: T) -> T: ...
    def subtract(self, x: T, y: T) -> T: ...
    def multiply(self, x: T, y: T) -> T: ...
    def scale(self, x: T, factor: float) -> T: ...
    def gelu(self, x: T, approximate: Literal["none", "tanh"] = "none") -> T: ...
    def quick_gelu(self, x: T) -> T:
        """x * sigmoid(1.702 x), the activation of OpenAI's CLIP weights."""
        ...

    def silu(self, x: T) -> T: ...
    def relu(self, x: T) -> T: ...
    def relu6(self, x: T) -> T: ...
    def sigmoid(self, x: T) -> T: ...
    def tanh(self, x: T) -> T: ...
    def softmax(self, x: T, axis: int = -1) -> T: ...

    # ── attention ──
    def attention(self, q: T, k: T, v: T, *, causal: bool = False, mask: T | None = None) -> T:
        """Scaled dot-product attention, scale D^-0.5. q [B, H, L, D], k and v [B, H, S, D].

        mask [B, S] int32: 0 hides a position of k from every query.
        """
        ...

    def rope(self, x: T, theta: float) -> T:
        """Rotary positions 0..L-1 on x [B, H, L, D], halves rotated (arXiv 2104.09864)."""
        ...

    def grouped_attention(self, q: T, k: T, v: T, mask: T | None = None) -> T:
        """Attention over a text of any length, without the scores of all pairs at once.

        q [B, H, L, D], k and v [B, G, L, D], where H is a multiple of G: each head of k and v
        serves H / G heads of q in a row (grouped queries, arXiv 2305.13245). Scale D^-0.5.
        mask [B, L] int32: 0 hides a position from every query; None: attention is causal.
        """
        ...

    def by_tokens(self, x: T, apply: Callable[[T], T]) -> T:
        """apply(x), where apply maps x [B, L, W] to [B, L, *] and each token by itself.

        An emitter may call it on one block of tokens after another, to hold less at a time.
        """
        ...

    # ── shape ──
    def reshape(self, x: T, shape: Sequence[int]) -> T:
        """-1 is inferred; 0 keeps the dimension of x at that position."""
        ...

    def transpose(self, x: T, order: Sequence[int]) -> T: ...
    def concat(self, parts: Sequence[T], axis: int) -> T: ...
    def crop(self, x: T, axis: int, start: int, stop: int) -> T:
        """x[start:stop] along an axis."""
        ...

    def head_rows(self, table: Array, x: T) -> T:
        """The first L rows of table [positions, W] for x [B, L, ...] -> [1, L, W]."""
        ...

    def tile_batch(self, tokens: Array, x: T) -> T:
        """tokens [L, W] for every item of x [B, ...] -> [B, L, W]: class and query tokens."""
        ...

    def take_place(self, x: T, place: T) -> T:
        """x [B, L, W], place int32 [B] -> [B, W]."""
        ...

    # ── reduction ──
    def mean(self, x: T, axes: Sequence[int], *, keep: bool = False) -> T: ...
    def masked_mean(self, x: T, mask: T, *, root: bool = False) -> T:
        """Mean of x [B, L, W] over the positions where mask int32 [B, L] is 1 -> [B, W].

        root: divide the sum by the square root of their number.
        """
        ...

    def masked_max(self, x: T, mask: T) -> T:
        """Maximum of x [B, L, W] over the positions where mask int32 [B, L] is 1 -> [B, W]."""
        ...

    def position_mean(self, x: T, mask: T) -> T:
        """Mean of x [B, L, W] by position: 1, 2, 3, … where mask [B, L] (ones, then zeros) is 1.

        -> [B, W] (Muennighoff 2022, arXiv 2202.08904).
        """
        ...

    def first_place(self, ids: T, token: int) -> T:
        """First position of a token in each row of ids [B, L] -> int32 [B]; the last if absent."""
        ...

    def last_place(self, mask: T) -> T:
        """Last position where mask [B, L] (ones, then zeros) is 1 -> int32 [B]."""
        ...

    def max_place(self, ids: T) -> T:
        """First position of the largest id in each row of ids [B, L] -> int32 [B]."""
        ...

    def l2_normalize(self, x: T) -> T:
        """Scale the rows of x [B, W] to length 1."""
        ...

    # ── pixels ──
    def pixels(self, x: T, mean: Sequence[float], std: Sequence[float]) -> T:
        """uint8 [B, h, w, 3] -> float32 [B, 3, h, w]: (x / 255 - mean) / std."""
        ...
