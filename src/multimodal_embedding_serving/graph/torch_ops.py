"""The emitter that records a family's operations once and runs them eagerly on torch: CPU or CUDA.

Each operation becomes a step: a function of torch tensors, and the values that it takes. Weights
are copied to the device during recording, so that a run reads no checkpoint and folds nothing
again. Norms and pooling are computed in float32, everything else in the program's own precision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from multimodal_embedding_serving.checkpoints.weights import StoredTensor
from multimodal_embedding_serving.graph.arrays import float32, sides
from multimodal_embedding_serving.graph.ops import Array, Pair

Tensor: TypeAlias = torch.Tensor
Function = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class Value:
    """The result of a step, by the step's number; the inputs come first."""

    number: int


@dataclass(frozen=True, slots=True)
class Step:
    run: Function
    sources: tuple[int, ...]
    frees: tuple[int, ...]
    """Values that no later step uses."""


@dataclass(frozen=True, slots=True)
class Program:
    """A tower that is ready to run."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Inputs by name, on the program's device -> its last step's value, float32."""
        values: list[Tensor | None] = [inputs[name] for name in self.inputs]
        for step in self.steps:
            values.append(step.run(*(values[number] for number in step.sources)))
            for number in step.frees:
                values[number] = None
        return cast("Tensor", values[-1]).float()


def note_program(
    inputs: Sequence[str],
    build: Callable[[TorchOps, Mapping[str, Value]], Value],
    device: torch.device,
    dtype: torch.dtype,
) -> Program:
    """Record what `build` does with its inputs; its result must be its last step."""
    ops = TorchOps(len(inputs), device, dtype)
    result = build(ops, {name: Value(number) for number, name in enumerate(inputs)})
    noted = [*ops.noted, (lambda x: x, (result.number,))]
    last_use = {source: place for place, (_, sources) in enumerate(noted) for source in sources}
    frees: list[list[int]] = [[] for _ in noted]
    for source, place in last_use.items():
        frees[place].append(source)
    steps = (
        Step(run, sources, tuple(free)) for (run, sources), free in zip(noted, frees, strict=True)
    )
    return Program(tuple(inputs), tuple(steps))


class TorchOps:
    """`Ops` on the values of a program that is being recorded."""

    def __init__(self, inputs: int, device: torch.device, dtype: torch.dtype) -> None:
        self.noted: list[tuple[Function, tuple[int, ...]]] = []
        self._inputs = inputs
        self._device = device
        self._dtype = dtype
        self._rotations: dict[float, Value] = {}
        """By base: all heads of a model have one width, and all rows of a batch one length."""

    def _note(self, run: Function, *sources: Value) -> Value:
        self.noted.append((run, tuple(source.number for source in sources)))
        return Value(self._inputs + len(self.noted) - 1)

    # ── weights ──
    def constant(self, value: Array) -> Value:
        kept = self._weight(value)
        return self._note(lambda: kept)

    def linear(self, x: Value, weight: Array, bias: Array | None = None) -> Value:
        kept, shift = self._weight(weight), self._optional(bias)
        return self._note(lambda y: F.linear(y, kept, shift), x)

    def project(self, x: Value, matrix: Array) -> Value:
        kept = self._weight(matrix)
        return self._note(lambda y: y @ kept, x)

    def embedding(self, ids: Value, table: Array) -> Value:
        kept = self._weight(table)
        return self._note(lambda places: F.embedding(places, kept), ids)

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
        kept, shift = self._weight(weight), self._optional(bias)
        top, left, bottom, right = sides(padding)
        even = (top, left) == (bottom, right)

        def run(y: Tensor) -> Tensor:
            y = y if even else F.pad(y, (left, right, top, bottom))
            return F.conv2d(y, kept, shift, stride, (top, left) if even else 0, groups=groups)

        return self._note(run, x)

    def layer_norm(self, x: Value, weight: Array, bias: Array, eps: float) -> Value:
        gain, shift = self._weight(weight), self._weight(bias)
        return self._note(lambda y: F.layer_norm(y, gain.shape, gain, shift, eps), x)

    def rms_norm(self, x: Value, weight: Array, eps: float) -> Value:
        gain = self._weight(weight)

        def run(y: Tensor) -> Tensor:
            wide = y.float()
            wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
            return wide.to(y.dtype) * gain

        return self._note(run, x)

    # ── element by element ──
    def add(self, x: Value, y: Value) -> Value:
        return self._note(torch.add, x, y)

    def subtract(self, x: Value, y: Value) -> Value:
        return self._note(torch.sub, x, y)

    def multiply(self, x: Value, y: Value) -> Value:
        return self._note(torch.mul, x, y)

    def scale(self, x: Value, factor: float) -> Value:
        return self._note(lambda y: y * factor, x)

    def gelu(self, x: Value, approximate: Literal["none", "tanh"] = "none") -> Value:
        return self._note(partial(F.gelu, approximate=approximate), x)

    def quick_gelu(self, x: Value) -> Value:
        return self._note(lambda y: y * torch.sigmoid(1.702 * y), x)

    def silu(self, x: Value) -> Value:
        return self._note(F.silu, x)

    def relu(self, x: Value) -> Value:
        return self._note(torch.relu, x)

    def relu6(self, x: Value) -> Value:
        return self._note(lambda y: y.clamp(0, 6), x)

    def sigmoid(self, x: Value) -> Value:
        return self._note(torch.sigmoid, x)

    def tanh(self, x: Value) -> Value:
        return self._note(torch.tanh, x)

    def softmax(self, x: Value, axis: int = -1) -> Value:
        return self._note(lambda y: y.softmax(axis), x)

    # ── attention ──
    def attention(
        self, q: Value, k: Value, v: Value, *, causal: bool = False, mask: Value | None = None
    ) -> Value:
        attend: Any = F.scaled_dot_product_attention
        if mask is None:
            return self._note(partial(attend, is_causal=causal), q, k, v)
        if causal:
            raise ValueError("attention takes a mask or causal, not both")
        return self._note(
            lambda a, b, c, seen: attend(a, b, c, attn_mask=(seen == 1)[:, None, None]),
            q, k, v, mask,
        )  # fmt: skip

    def rope(self, x: Value, theta: float) -> Value:
        if theta not in self._rotations:
            self._rotations[theta] = self._note(partial(_rotation, theta), x)

        def run(y: Tensor, rotation: Tensor) -> Tensor:
            first, second = y.chunk(2, -1)
            return y * rotation[0] + torch.cat([-second, first], -1) * rotation[1]

        return self._note(run, x, self._rotations[theta])

    def grouped_attention(self, q: Value, k: Value, v: Value, mask: Value | None = None) -> Value:
        values = [q, k, v] if mask is None else [q, k, v, mask]
        return self._note(_attend_in_groups, *values)

    def by_tokens(self, x: Value, apply: Callable[[Value], Value]) -> Value:
        return apply(x)

    # ── shape ──
    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        return self._note(
            lambda y: y.reshape([size or y.shape[axis] for axis, size in enumerate(shape)]), x
        )

    def transpose(self, x: Value, order: Sequence[int]) -> Value:
        return self._note(lambda y: y.permute(*order), x)

    def concat(self, parts: Sequence[Value], axis: int) -> Value:
        return self._note(lambda *each: torch.cat(each, axis), *parts)

    def crop(self, x: Value, axis: int, start: int, stop: int) -> Value:
        def run(y: Tensor) -> Tensor:
            return y.narrow(axis, start, min(stop, y.shape[axis]) - start)

        return self._note(run, x)

    def head_rows(self, table: Array, x: Value) -> Value:
        kept = self._weight(table)
        return self._note(lambda y: kept[None, : y.shape[1]], x)

    def tile_batch(self, tokens: Array, x: Value) -> Value:
        kept = self._weight(tokens)
        return self._note(lambda y: kept.expand(y.shape[0], *kept.shape), x)

    def take_place(self, x: Value, place: Value) -> Value:
        return self._note(
            lambda y, at: y[torch.arange(y.shape[0], device=y.device), at.long()], x, place
        )

    # ── reduction ──
    def mean(self, x: Value, axes: Sequence[int], *, keep: bool = False) -> Value:
        return self._note(lambda y: y.float().mean(tuple(axes), keepdim=keep).to(y.dtype), x)

    def masked_mean(self, x: Value, mask: Value, *, root: bool = False) -> Value:
        return self._note(partial(_weighted_mean, root=root), x, mask)

    def masked_max(self, x: Value, mask: Value) -> Value:
        def run(y: Tensor, seen: Tensor) -> Tensor:
            return y.masked_fill((seen == 0)[:, :, None], -torch.inf).amax(1)

        return self._note(run, x, mask)

    def position_mean(self, x: Value, mask: Value) -> Value:
        def run(y: Tensor, seen: Tensor) -> Tensor:
            numbers = seen * torch.arange(1, seen.shape[1] + 1, device=seen.device)
            return _weighted_mean(y, numbers)

        return self._note(run, x, mask)

    def first_place(self, ids: Value, token: int) -> Value:
        def run(each: Tensor) -> Tensor:
            hit = each == token
            return torch.where(hit.any(1), hit.int().argmax(1), each.shape[1] - 1)

        return self._note(run, ids)

    def last_place(self, mask: Value) -> Value:
        return self._note(lambda seen: seen.sum(1) - 1, mask)

    def max_place(self, ids: Value) -> Value:
        def run(each: Tensor) -> Tensor:  # argmax guarantees no order among equal values
            return (each == each.max(1, keepdim=True).values).int().argmax(1)

        return self._note(run, ids)

    def l2_normalize(self, x: Value) -> Value:
        return self._note(lambda y: F.normalize(y.float(), dim=-1, eps=1e-12), x)

    # ── pixels ──
    def pixels(self, x: Value, mean: Sequence[float], std: Sequence[float]) -> Value:
        gain = torch.tensor([1 / (255 * each) for each in std], device=self._device)
        ratios = [m / s for m, s in zip(mean, std, strict=True)]
        shift = torch.tensor(ratios, device=self._device)
        return self._note(
            lambda y: (y.float() * gain - shift).permute(0, 3, 1, 2).to(self._dtype), x
        )

    # ── storage ──
    def _optional(self, value: Array | None) -> Tensor | None:
        return None if value is None else self._weight(value)

    def _weight(self, value: Array) -> Tensor:
        """A copy on the device; bfloat16 is copied as it is stored."""
        if isinstance(value, StoredTensor) and value.dtype == "BF16":
            bits = np.array(value.data, order="C").view(np.int16)
            stored = torch.from_numpy(bits).view(torch.bfloat16)
        else:
            stored = torch.from_numpy(np.array(float32(value), order="C"))
        return stored.to(self._device, self._dtype)


def _attend_in_groups(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """torch's own kernels take memory by the length, not its square; causal without a mask."""
    times = q.shape[1] // k.shape[1]
    k, v = (each.repeat_interleave(times, 1) for each in (k, v))
    seen = None if mask is None else (mask == 1)[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=mask is None)


def _weighted_mean(x: Tensor, weight: Tensor, *, root: bool = False) -> Tensor:
    """Of x [B, L, W] by weight [B, L]; root: the sum by the square root of the weights' sum."""
    weight = weight[:, :, None].float()
    total = weight.sum(1)
    return ((x.float() * weight).sum(1) / (total.sqrt() if root else total)).to(x.dtype)


def _rotation(theta: float, x: Tensor) -> Tensor:
    """Cosines and sines for x [B, H, L, D] -> [2, L, D]."""
    length, width = x.shape[-2:]
    steps = torch.arange(0, width, 2, dtype=torch.float64, device=x.device) / width
    places = torch.arange(length, dtype=torch.float32, device=x.device)
    angles = (places[:, None] * (theta**-steps).float()).repeat(1, 2)
    return torch.stack([angles.cos(), angles.sin()]).to(x.dtype)
