"""The emitter that builds an OpenVINO model directly from a checkpoint's tensors.

Weights become constants over the memory-mapped file if their stored type allows it (f32, f16 and
bf16 stay as they are) and are converted tensor by tensor otherwise, so that building a model needs
little more memory than the result. The patterns (RMSNorm, RoPE, grouped heads, attention) are those
that the CPU plugin fuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.checkpoints.weights import StoredTensor
from multimodal_embedding_serving.graph.arrays import float32, sides
from multimodal_embedding_serving.graph.blocks import HIDDEN, LongText, count_places
from multimodal_embedding_serving.graph.ops import Array, Pair
from multimodal_embedding_serving.graph.quantize import quantize
from multimodal_embedding_serving.graph.runtime import opset as op
from multimodal_embedding_serving.graph.runtime import ov

Form = Literal["f32", "f16", "i8", "i4"]
Node = Any  # openvino's stubs give every operation the type Node, without its overloads

NARROW = 32
"""Rows with at most this many weights stay f16: a filter's 9 or 25 weights take little space, and
rounding them is costly (EfficientNet-Lite2's logits were off by up to 1.3, and 0.4 without)."""


@dataclass(frozen=True, slots=True)
class Storage:
    """How each kind of weight is stored on disk. Norms, biases and positions are f16 or f32."""

    linear: Form = "f16"
    convolution: Form = "f16"
    embedding: Form = "f16"
    rest: Literal["f32", "f16"] = "f16"


FLOAT32 = Storage("f32", "f32", "f32", "f32")
FLOAT16 = Storage()
INT8_WEIGHTS = Storage("i8", "i8", "i8", "f16")
INT4_WEIGHTS = Storage("i4", "i8", "i8", "f16")


def emit_model(
    inputs: Mapping[str, int | None],
    build: Callable[[OpenVINOOps, Mapping[str, Node]], Node],
    storage: Storage,
) -> ov.Model:
    """Build the model of one tower: dynamic batch in, `embedding` float32 [B, dimension] out.

    `inputs` names the inputs: input_ids and attention_mask int32 [B, L], or pixels uint8
    [B, side, side, 3], whose value is the side.
    """
    parameters: dict[str, Node] = {}
    for name, side in inputs.items():
        shape = [-1, -1] if side is None else [-1, side, side, 3]
        kind = ov.Type.i32 if side is None else ov.Type.u8
        parameters[name] = op.parameter(shape, kind, name=name)
        parameters[name].output(0).set_names({name})
    ops = OpenVINOOps(storage)
    result = op.result(build(ops, parameters))
    result.output(0).set_names({"embedding"})
    model = ov.Model([result], list(parameters.values()), "tower")
    # OpenVINO numbers the nodes of a process; positions give the same file every time.
    for place, node in enumerate(model.get_ordered_ops()):
        if node.get_type_name() != "Parameter":
            node.set_friendly_name(f"{node.get_type_name()}_{place}")
    # The constants are views: their data must live as long as the model.
    model.kept = ops.kept
    return model


class OpenVINOOps:
    """`Ops` on OpenVINO nodes."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.kept: list[object] = []
        self._rotations: dict[tuple[float, int], tuple[Node, Node]] = {}
        self._hidden_future: Node | None = None
        self._text = LongText()
        self._shared: dict[tuple[int, Form], Node] | None = None
        """Weights that were stored already, while more than one operation takes them."""

    # ── weights ──
    def constant(self, value: Array) -> Node:
        return self._weight(value, self.storage.rest)

    def linear(self, x: Node, weight: Array, bias: Array | None = None) -> Node:
        y = op.matmul(x, self._weight(weight, self.storage.linear), False, True)
        return y if bias is None else op.add(y, self.constant(bias))

    def project(self, x: Node, matrix: Array) -> Node:
        return self.linear(x, np.ascontiguousarray(float32(matrix).T))

    def embedding(self, ids: Node, table: Array) -> Node:
        return op.gather(self._weight(table, self.storage.embedding), ids, _ints(0))

    def conv2d(
        self,
        x: Node,
        weight: Array,
        bias: Array | None = None,
        *,
        stride: int | Pair = 1,
        padding: int | Pair | tuple[int, int, int, int] = 0,
        groups: int = 1,
    ) -> Node:
        top, left, bottom, right = sides(padding)
        strides = list(stride) if isinstance(stride, tuple) else [stride, stride]
        kernel = self._weight(weight, self.storage.convolution)
        begin, end = [top, left], [bottom, right]
        if groups == 1:
            y = op.convolution(x, kernel, strides, begin, end, [1, 1])
        else:
            out, *rest = weight.shape
            kernel = op.reshape(kernel, _ints(groups, out // groups, *rest), False)
            y = op.group_convolution(x, kernel, strides, begin, end, [1, 1])
        if bias is None:
            return y
        return op.add(y, op.reshape(self.constant(bias), _ints(1, -1, 1, 1), False))

    def layer_norm(self, x: Node, weight: Array, bias: Array, eps: float) -> Node:
        normal = op.mvn(x, _ints(-1), True, eps, "inside_sqrt")
        return op.add(op.multiply(normal, self.constant(weight)), self.constant(bias))

    def rms_norm(self, x: Node, weight: Array, eps: float) -> Node:
        square = op.reduce_mean(op.power(x, _floats(2.0)), _ints(-1), True)
        root = op.sqrt(op.add(square, _floats(eps)))
        return op.multiply(op.multiply(x, op.divide(_floats(1.0), root)), self.constant(weight))

    # ── element by element ──
    def add(self, x: Node, y: Node) -> Node:
        return op.add(x, y)

    def subtract(self, x: Node, y: Node) -> Node:
        return op.subtract(x, y)

    def multiply(self, x: Node, y: Node) -> Node:
        return op.multiply(x, y)

    def scale(self, x: Node, factor: float) -> Node:
        return op.multiply(x, _floats(factor))

    def gelu(self, x: Node, approximate: Literal["none", "tanh"] = "none") -> Node:
        return op.gelu(x, "erf" if approximate == "none" else "tanh")

    def quick_gelu(self, x: Node) -> Node:
        return op.swish(x, op.constant(np.float32(1.702)))

    def silu(self, x: Node) -> Node:
        return op.swish(x)

    def relu(self, x: Node) -> Node:
        return op.relu(x)

    def relu6(self, x: Node) -> Node:
        return op.clamp(x, 0.0, 6.0)

    def sigmoid(self, x: Node) -> Node:
        return op.sigmoid(x)

    def tanh(self, x: Node) -> Node:
        return op.tanh(x)

    def softmax(self, x: Node, axis: int = -1) -> Node:
        return op.softmax(x, axis)

    # ── attention ──
    def attention(
        self, q: Node, k: Node, v: Node, *, causal: bool = False, mask: Node | None = None
    ) -> Node:
        if mask is not None and causal:  # with causal attention, right padding needs no mask
            raise ValueError("attention takes a mask or causal, not both")
        if causal:
            return op.scaled_dot_product_attention(q, k, v, self._future(q))
        if mask is None:
            return op.scaled_dot_product_attention(q, k, v)
        visible = op.convert(op.unsqueeze(mask, _ints(1, 2)), "f32")
        hidden = op.multiply(op.subtract(_floats(1.0), visible), _floats(HIDDEN))
        return op.scaled_dot_product_attention(q, k, v, hidden)

    def _future(self, q: Node) -> Node:
        """The mask that hides later positions, built once: for `causal` the plugin would rebuild it
        in every layer, a dozen nodes each (6 % more time for a CLIP text)."""
        if self._hidden_future is None:
            places = count_places(q, 2)
            later = op.greater(op.unsqueeze(places, _ints(0)), op.unsqueeze(places, _ints(1)))
            hidden = op.select(later, _floats(HIDDEN), _floats(0.0))
            self._hidden_future = op.unsqueeze(hidden, _ints(0, 1))
        return self._hidden_future

    def rope(self, x: Node, theta: float) -> Node:
        width = x.get_output_partial_shape(0)[3].get_length()
        cos, sin = self._rotation(x, theta, width)
        half = width // 2
        first, second = self.crop(x, 3, 0, half), self.crop(x, 3, half, width)
        turned = op.concat([op.negative(second), first], -1)  # axis 3 would prevent the fusion
        return op.add(op.multiply(x, cos), op.multiply(turned, sin))

    def _rotation(self, x: Node, theta: float, width: int) -> tuple[Node, Node]:
        if (theta, width) not in self._rotations:
            steps = np.arange(0, width, 2, dtype=np.float64) / width
            frequency = op.constant((theta**-steps).astype(np.float32)[None])
            places = op.unsqueeze(op.convert(count_places(x, 2), "f32"), _ints(1))
            angles = op.matmul(places, frequency, False, False)
            angles = op.unsqueeze(op.concat([angles, angles], 1), _ints(0, 1))
            self._rotations[theta, width] = op.cos(angles), op.sin(angles)
        return self._rotations[theta, width]

    def grouped_attention(self, q: Node, k: Node, v: Node, mask: Node | None = None) -> Node:
        return self._text.attend(q, k, v, mask)

    def by_tokens(self, x: Node, apply: Callable[[Node], Node]) -> Node:
        self._shared = {}  # the blocks share their weights
        y = self._text.by_tokens(x, apply)
        self._shared = None
        return y

    # ── shape ──
    def reshape(self, x: Node, shape: Sequence[int]) -> Node:
        return op.reshape(x, _ints(*shape), True)

    def transpose(self, x: Node, order: Sequence[int]) -> Node:
        return op.transpose(x, _ints(*order))

    def concat(self, parts: Sequence[Node], axis: int) -> Node:
        return op.concat(list(parts), axis)

    def crop(self, x: Node, axis: int, start: int, stop: int) -> Node:
        return op.slice(x, _ints(start), _ints(stop), _ints(1), _ints(axis))

    def head_rows(self, table: Array, x: Node) -> Node:
        length = op.gather(op.shape_of(x, "i64"), _ints(1), _ints(0))
        rows = op.slice(self.constant(table), _ints(0), length, _ints(1), _ints(0))
        return op.unsqueeze(rows, _ints(0))

    def tile_batch(self, tokens: Array, x: Node) -> Node:
        batch = op.gather(op.shape_of(x, "i64"), _ints(0), _ints(0))
        shape = op.concat([batch, _ints(*tokens.shape)], 0)
        return op.broadcast(self.constant(tokens), shape)

    def take_place(self, x: Node, place: Node) -> Node:
        return op.squeeze(
            op.gather(x, op.unsqueeze(place, _ints(1)), _ints(1), batch_dims=1), _ints(1)
        )

    # ── reduction ──
    def mean(self, x: Node, axes: Sequence[int], *, keep: bool = False) -> Node:
        return op.reduce_mean(x, _ints(*axes), keep)

    def masked_mean(self, x: Node, mask: Node, *, root: bool = False) -> Node:
        weight = op.convert(op.unsqueeze(mask, _ints(2)), "f32")
        total = op.reduce_sum(op.multiply(x, weight), _ints(1), False)
        count = op.reduce_sum(weight, _ints(1), False)
        return op.divide(total, op.sqrt(count) if root else count)

    def masked_max(self, x: Node, mask: Node) -> Node:
        hidden = op.equal(op.unsqueeze(mask, _ints(2)), op.constant(np.int32(0)))
        return op.reduce_max(op.select(hidden, _floats(HIDDEN), x), _ints(1), False)

    def position_mean(self, x: Node, mask: Node) -> Node:
        numbers = op.multiply(mask, op.add(count_places(mask, 1), op.constant(np.int32(1))))
        numbers = op.convert(op.unsqueeze(numbers, _ints(2)), "f32")
        count = op.convert(op.unsqueeze(op.reduce_sum(mask, _ints(1), True), _ints(2)), "f32")
        # The sum of the numbers, count * (count + 1) / 2, would be too large for float16.
        share = op.divide(op.divide(numbers, count), op.add(count, _floats(1.0)))
        return op.reduce_sum(op.multiply(x, op.multiply(share, _floats(2.0))), _ints(1), False)

    def first_place(self, ids: Node, token: int) -> Node:
        return self._first_where(ids, op.equal(ids, op.constant(np.int32(token))))

    def last_place(self, mask: Node) -> Node:
        return op.subtract(op.reduce_sum(mask, _ints(1), False), op.constant(np.int32(1)))

    def max_place(self, ids: Node) -> Node:
        return self._first_where(ids, op.equal(ids, op.reduce_max(ids, _ints(1), True)))

    def _first_where(self, ids: Node, hit: Node) -> Node:
        length = op.squeeze(op.gather(op.shape_of(ids, "i32"), _ints(1), _ints(0)), _ints(0))
        last = op.subtract(length, op.constant(np.int32(1)))
        return op.reduce_min(op.select(hit, count_places(ids, 1), last), _ints(1), False)

    def l2_normalize(self, x: Node) -> Node:
        length = op.sqrt(op.reduce_sum(op.multiply(x, x), _ints(-1), True))
        return op.divide(x, op.maximum(length, _floats(1e-12)))

    # ── pixels ──
    def pixels(self, x: Node, mean: Sequence[float], std: Sequence[float]) -> Node:
        spread = np.asarray(std, np.float64) * 255
        gain = op.constant((1 / spread).astype(np.float32))
        shift = op.constant((np.asarray(mean, np.float64) * 255 / spread).astype(np.float32))
        scaled = op.subtract(op.multiply(op.convert(x, "f32"), gain), shift)
        return self.transpose(scaled, (0, 3, 1, 2))

    # ── storage ──
    def _weight(self, value: Array, form: Form) -> Node:
        if self._shared is None or not isinstance(value, StoredTensor):
            return self._store(value, form)
        if (id(value), form) not in self._shared:
            self._shared[id(value), form] = self._store(value, form)
        return self._shared[id(value), form]

    def _store(self, value: Array, form: Form) -> Node:
        width = int(np.prod(value.shape[1:]))
        narrow = len(value.shape) < 2 or width <= NARROW or (form == "i4" and width % 2)
        if form in ("i8", "i4") and not narrow:
            return self._integers(value, 4 if form == "i4" else 8)
        return self._floating(value, "f32" if form == "f32" else "f16")

    def _floating(self, value: Array, form: Literal["f32", "f16"]) -> Node:
        if isinstance(value, StoredTensor) and value.dtype in ("BF16", "F16"):
            kind = ov.Type.bf16 if value.dtype == "BF16" else ov.Type.f16
            return op.convert(self._view(value.data, kind), "f32")
        data = value.data if isinstance(value, StoredTensor) else value
        data = np.ascontiguousarray(data, np.float32)
        if form == "f16" and (not data.size or np.abs(data).max() < np.finfo(np.float16).max):
            return op.convert(self._view(data.astype(np.float16), ov.Type.f16), "f32")
        return self._view(data, ov.Type.f32)

    def _integers(self, value: Array, bits: Literal[4, 8]) -> Node:
        q = quantize(value, bits)
        count, groups = q.scale.shape
        shape = q.shape if groups == 1 else (count, groups, int(np.prod(q.shape[1:])) // groups)
        each = (count, *([1] * (len(shape) - 1))) if groups == 1 else (count, groups, 1)
        kind = ov.Type.u4 if bits == 4 else ov.Type.u8
        levels = op.convert(self._view(q.levels, kind, shape), "f32")
        zero = op.convert(op.constant(q.zero.reshape(each)), "f32")
        scaled = op.multiply(op.subtract(levels, zero), op.constant(q.scale.reshape(each)))
        return scaled if groups == 1 else op.reshape(scaled, _ints(*q.shape), False)

    def _view(
        self, data: NDArray[Any], kind: ov.Type, shape: tuple[int, ...] | None = None
    ) -> Node:
        # Transposed and sliced tensors are strided views, which OpenVINO does not accept.
        data = np.require(data, requirements=["C", "A"])
        self.kept.append(data)
        tensor = ov.Tensor(data, list(data.shape if shape is None else shape), kind)
        return op.constant(tensor, shared_memory=True)


def _ints(*values: int) -> Node:
    return op.constant(np.array(values, np.int64))


def _floats(value: float) -> Node:
    return op.constant(np.array([value], np.float32))
