"""How an OpenVINO graph cuts a long text into blocks, so that it holds less at a time.

The blocks are unrolled: OpenVINO 2026.4's CPU plugin fuses no attention in the body of a Loop, and
gives each Loop buffers of its own. Where a text is cut follows its length while the graph runs. A
short text is one block: the others are empty, and the plugin skips what computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from multimodal_embedding_serving.graph.runtime import opset as op

Node = Any  # openvino's stubs give every operation the type Node, without its overloads

QUERY_BLOCKS = (4, 128)
"""Blocks of queries that attention is cut into, and the fewest queries of a block.

Where attention is causal, each block is multiplied with the keys up to its own end only. Of 8
blocks an 8,192-token text takes 4 % less time and 20 % more memory, a 16-token text 3 % more time;
and each block costs 5 ms a layer when a compiled graph is opened."""
TOKEN_BLOCKS = (2, 512)
"""The same for layers that treat each token by itself. A block of fewer tokens would read the
weights too often for its work. Each block takes 0.5 ms in 28 layers of a short text (of 80 ms at 16
tokens), where the plugin passes over what is empty node by node."""
MULTIPLE = 32
"""Queries that the plugin's fused attention treats at a time: a block is a multiple of it."""
MAX_ATTENTIONS = 1024
"""Attentions that a graph may have: each gives its masks a number of its own."""
HIDDEN = -65504.0
"""The score of a place that a query must not see: the lowest float16, so that f16 devices don't
overflow."""


class LongText:
    """What a graph does in blocks. All its texts have as many places, so they are cut once."""

    def __init__(self) -> None:
        self._cuts: dict[tuple[int, int], Blocks] = {}
        self._attentions = 0
        self._hidden: dict[int, Node] = {}

    def attend(self, q: Node, k: Node, v: Node, mask: Node | None) -> Node:
        """`Ops.grouped_attention`.

        Queries that share a head of keys become an item of the batch: the plugin broadcasts the one
        head, where repeated heads would be copied in every layer.
        """
        (_, heads, _, width), (_, shared, *_) = _sizes(q), _sizes(k)
        k = op.multiply(k, op.constant(np.array([width**-0.5], np.float32)))
        q = _reshape(q, -1, heads // shared, 0, width)
        k, v = (_reshape(x, -1, 1, 0, width) for x in (k, v))
        blocks = self._cut(q, 2, QUERY_BLOCKS)
        if mask is None:
            self._attentions += 1
            y = blocks.attend(q, k, v, self._attentions)
        else:
            y = blocks.attend_to_all(q, k, v, self._hide(mask, shared))
        return _reshape(y, -1, heads, 0, width)

    def _hide(self, mask: Node, shared: int) -> Node:
        """mask [B, L] -> where it is 0, once for each head of keys: [B * G, 1, 1, L].

        It takes a byte for each place and head, so that all layers may share it.
        """
        if shared not in self._hidden:  # a graph has one mask
            hidden = op.equal(op.unsqueeze(mask, _int64s(1, 2)), op.constant(np.int32(0)))
            self._hidden[shared] = _reshape(op.concat([hidden] * shared, 1), -1, 1, 1, 0)
        return self._hidden[shared]

    def by_tokens(self, x: Node, apply: Callable[[Node], Node]) -> Node:
        """`Ops.by_tokens`."""
        return op.concat([apply(part) for part in self._cut(x, 1, TOKEN_BLOCKS).split(x, 1)], 1)

    def _cut(self, x: Node, axis: int, blocks: tuple[int, int]) -> Blocks:
        if blocks not in self._cuts:
            self._cuts[blocks] = cut_places(count_places(x, axis), *blocks)
        return self._cuts[blocks]


@dataclass(frozen=True, slots=True)
class Blocks:
    """One way to cut the texts of a batch; nodes that all layers share."""

    lengths: Node
    """int64 [blocks]; 0 for blocks that a short text does not need."""
    stops: Sequence[Node]
    """0, 0 and where each block ends, int64 [3]; an empty block ends at 0, so that it has no keys
    either."""
    rows: Sequence[Node]
    """MAX_ATTENTIONS times each block's places, int32 [1, 1, length, 1]."""
    columns: Sequence[Node]
    """The same for all places up to its end, int32 [1, 1, 1, end]."""
    hidden: Node

    def split(self, x: Node, axis: int) -> Sequence[Node]:
        """x, cut along an axis."""
        parts: Sequence[Node] = op.variadic_split(x, _int64(axis), self.lengths).outputs()
        return parts

    def attend(self, q: Node, k: Node, v: Node, number: int) -> Node:
        """Causal attention of q [B, H, L, D] over k, which is scaled, and v [B, 1 or H, L, D].

        Matmul, select, softmax, matmul: written like this, the CPU plugin makes one fused kernel of
        it, with one byte a score for the mask and without a transposed copy of the keys. `number`
        differs from attention to attention of a graph: the plugin merges nodes that are equal, and
        masks that all layers share would live until the last one.
        """
        layer = op.constant(np.int32(number))
        parts = []
        for place, query in enumerate(self.split(q, 2)):
            keys, values = (_head(x, self.stops[place]) for x in (k, v))
            later = op.greater(self.columns[place], op.add(self.rows[place], layer))
            scores = op.select(later, self.hidden, op.matmul(query, keys, False, True))
            parts.append(op.matmul(op.softmax(scores, -1), values, False, False))
        return op.concat(parts, 2)

    def attend_to_all(self, q: Node, k: Node, v: Node, hidden: Node) -> Node:
        """Attention of q over all of k and v but the places of `hidden`; as in `attend`."""
        parts = []
        for query in self.split(q, 2):
            scores = op.select(hidden, self.hidden, op.matmul(query, k, False, True))
            parts.append(op.matmul(op.softmax(scores, -1), v, False, False))
        return op.concat(parts, 2)


def count_places(x: Node, axis: int) -> Node:
    """int32 0..L-1, where L is the size of x along an axis."""
    size = op.gather(op.shape_of(x, "i32"), _int64s(axis), _int64s(0))
    length = op.squeeze(size, _int64s(0))
    return op.range(op.constant(np.int32(0)), length, op.constant(np.int32(1)), "i32")


def cut_places(places: Node, count: int, fewest: int) -> Blocks:
    """Cut places int32 0..L-1 into `count` blocks of one size of `fewest` or more, but the last."""
    zero, axis = _int64s(0), _int64(0)
    total = op.shape_of(places, "i64")
    size = op.divide(op.add(total, _int64(count * MULTIPLE - 1)), _int64(count * MULTIPLE))
    size = op.maximum(op.multiply(size, _int64(MULTIPLE)), _int64(fewest))
    steps = [op.constant(np.arange(first, first + count, dtype=np.int64)) for first in (0, 1)]
    starts, stops = (op.minimum(op.multiply(size, each), total) for each in steps)
    lengths = op.subtract(stops, starts)
    ends = op.multiply(stops, op.minimum(lengths, _int64(1)))
    ends = op.split(ends, axis, count).outputs()
    spread = op.multiply(places, op.constant(np.int32(MAX_ATTENTIONS)))
    one = _int64s(1)
    rows = op.variadic_split(spread, axis, lengths).outputs()
    columns = [op.slice(spread, zero, end, one, zero) for end in ends]
    before, around = (_int64s(*axes) for axes in ((0, 1, 2), (0, 1, 3)))
    return Blocks(
        lengths=lengths,
        stops=[op.concat([_int64s(0, 0), end], 0) for end in ends],
        rows=[op.unsqueeze(each, around) for each in rows],
        columns=[op.unsqueeze(each, before) for each in columns],
        hidden=op.constant(np.array([HIDDEN], np.float32)),
    )


def _head(x: Node, stop: Node) -> Node:
    """The places of x [B, H, L, D] before `stop`, 0, 0 and their number.

    By StridedSlice: for Slice, the plugin infers the shape with its general code in each call.
    """
    masked = [1, 1, 0]
    return op.strided_slice(x, _int64s(0, 0, 0), stop, _int64s(1, 1, 1), masked, masked)


def _sizes(x: Node) -> list[int]:
    """The sizes of x; -1 where one is dynamic."""
    return [-1 if each.is_dynamic else each.get_length() for each in x.get_output_partial_shape(0)]


def _reshape(x: Node, *sizes: int) -> Node:
    """-1 is inferred, 0 stays what it is."""
    return op.reshape(x, _int64s(*sizes), True)


def _int64s(*values: int) -> Node:
    return op.constant(np.array(values, np.int64))


def _int64(value: int) -> Node:
    return op.constant(np.int64(value))
