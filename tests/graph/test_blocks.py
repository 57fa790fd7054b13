"""Long texts in blocks: the same values as whole, at every length around the blocks' edges."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_embedding_serving.checkpoints.weights import StoredTensor
from multimodal_embedding_serving.graph.blocks import MULTIPLE, QUERY_BLOCKS, TOKEN_BLOCKS
from multimodal_embedding_serving.graph.openvino_ops import FLOAT32, OpenVINOOps, emit_model
from multimodal_embedding_serving.graph.runtime import opset as op
from multimodal_embedding_serving.graph.runtime import ov
from tests.graph.emitters import EMITTERS, Values
from tests.graph.operations import HEADS, attend, weight

COUNT, FEWEST = QUERY_BLOCKS
FULL, NEXT = COUNT * FEWEST, COUNT * (FEWEST + MULTIPLE)
EDGES = [1, 2, FEWEST - 1, FEWEST, FEWEST + 1, 2 * FEWEST, FULL - 1, FULL, FULL + 1, NEXT - 1,
         NEXT + 1, 1337]  # fmt: skip
"""Lengths at which the last block is empty, of one query, full, or of one query less than full."""
TOKENS = TOKEN_BLOCKS[1]


def draw(length: int, batch: int = 1, heads: int = 4, shared: int = 2) -> Values:
    rng = np.random.default_rng(length)
    return {
        name: rng.standard_normal((batch, count, length, 8), dtype=np.float32)
        for name, count in zip("qkv", (heads, shared, shared), strict=True)
    }


def attend_whole(trial: Values) -> NDArray[Any]:
    times = trial["q"].shape[1] // trial["k"].shape[1]
    k, v = (trial[name].repeat(times, 1) for name in "kv")
    whole: NDArray[Any] = attend(trial["q"], k, v, ~np.tri(k.shape[2], dtype=bool))
    return whole


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_attention_in_blocks_is_attention(emitter: str, shared: int) -> None:
    """One graph for all lengths, up and down: an infer request keeps its buffers."""
    trials = [draw(length, shared=shared) for length in [*EDGES, *reversed(EDGES)]]
    answers = EMITTERS[emitter](
        lambda o, v: o.grouped_attention(v["q"], v["k"], v["v"]), trials, HEADS
    )
    for trial, answer in zip(trials, answers, strict=True):
        np.testing.assert_allclose(answer, attend_whole(trial), atol=2e-6)


@pytest.mark.parametrize("emitter", EMITTERS)
def test_items_of_a_batch_do_not_see_each_other(emitter: str) -> None:
    trial = draw(COUNT * FEWEST + 5, batch=3)
    alone = [{name: value[item : item + 1] for name, value in trial.items()} for item in range(3)]
    together, *single = EMITTERS[emitter](
        lambda o, v: o.grouped_attention(v["q"], v["k"], v["v"]), [trial, *alone], HEADS
    )
    np.testing.assert_allclose(together, attend_whole(trial), atol=2e-6)
    np.testing.assert_allclose(together, np.concatenate(single), atol=1e-6)


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("shared", [1, 2, 4])
def test_blocks_of_queries_see_all_places_of_a_mask(emitter: str, shared: int) -> None:
    """Without causal attention: one graph for all lengths, texts of different lengths together."""
    trials = []
    for length in [*EDGES, *reversed(EDGES)]:
        trial = dict(draw(length, batch=2, shared=shared))
        kept = np.array([[length], [max(1, length // 3)]])
        trials.append({**trial, "m": (np.arange(length) < kept).astype(np.int32)})
    answers = EMITTERS[emitter](
        lambda o, v: o.grouped_attention(v["q"], v["k"], v["v"], v["m"]), trials, HEADS
    )
    for trial, answer in zip(trials, answers, strict=True):
        k, v = (trial[name].repeat(4 // shared, 1) for name in "kv")
        whole = attend(trial["q"], k, v, trial["m"][:, None, None] == 0)
        np.testing.assert_allclose(answer, whole, atol=2e-6)


def test_what_follows_a_query_does_not_reach_it() -> None:
    """Padding on the right may be anything, in blocks of its own or behind a text's last token."""
    trial, length = draw(COUNT * FEWEST + 1), FEWEST + 3
    changed = {name: value.copy() for name, value in trial.items()}
    for value in changed.values():
        value[:, :, length:] = 50
    before, after = EMITTERS["openvino"](
        lambda o, v: o.grouped_attention(v["q"], v["k"], v["v"]), [trial, changed], HEADS
    )
    assert np.array_equal(before[:, :, :length], after[:, :, :length])


@pytest.mark.parametrize("emitter", EMITTERS)
def test_tokens_in_blocks_are_the_tokens(emitter: str) -> None:
    matrix = weight(5, 6)
    kept = StoredTensor("w", "F32", matrix.shape, matrix)
    lengths = [1, TOKENS - 1, TOKENS, TOKENS + 1, 4 * TOKENS, 4 * TOKENS + 1, 3]
    rng = np.random.default_rng(3)
    trials = [{"x": rng.standard_normal((2, n, 6), dtype=np.float32)} for n in lengths]
    answers = EMITTERS[emitter](
        lambda o, v: o.by_tokens(v["x"], lambda y: o.linear(y, kept)), trials, {"x": (0, 1)}
    )
    for trial, answer in zip(trials, answers, strict=True):
        np.testing.assert_allclose(answer, trial["x"] @ matrix.T, atol=1e-5)


def build(ops: OpenVINOOps, inputs: Any) -> Any:
    """Two attentions over the same tokens, then a layer token by token."""
    table, matrix = (StoredTensor("w", "F32", (each, 32), weight(each, 32)) for each in (9, 32))
    x = ops.embedding(inputs["input_ids"], table)
    for _ in range(2):
        y = ops.transpose(ops.reshape(x, (0, 0, 4, 8)), (0, 2, 1, 3))
        y = ops.grouped_attention(y, ops.crop(y, 1, 0, 2), ops.crop(y, 1, 2, 4))
        x = ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (0, 0, 32))
    x = ops.by_tokens(x, lambda part: ops.linear(part, matrix))
    return ops.mean(x, (1,))


def test_blocks_share_their_weights() -> None:
    model = emit_model({"input_ids": None}, build, FLOAT32)
    sizes = Counter(
        tuple(node.get_output_shape(0))
        for node in model.get_ops()
        if node.get_type_name() == "Constant"
    )
    assert sizes[32, 32] == 1


def test_the_plugin_fuses_each_block_and_each_mask_takes_a_byte_a_score() -> None:
    model = emit_model({"input_ids": None}, build, FLOAT32)
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = Counter(each["layerType"].astype(str) for each in nodes)
    assert kinds["Subgraph"] == 2 * COUNT
    assert not kinds["Softmax"]
    masks = [
        each["outputPrecisions"].astype(str)
        for each in nodes
        if "Greater" in each["originalLayersNames"].astype(str)
        and "Select" not in each["originalLayersNames"].astype(str)
    ]
    assert masks == ["u8"] * 2 * COUNT  # each attention has its own: none outlives its block


def test_the_plugin_fuses_each_block_of_masked_attention() -> None:
    """A mask of all pairs would take memory by the square of the length: there is none."""

    def build_masked(ops: OpenVINOOps, inputs: Any) -> Any:
        x = ops.embedding(inputs["input_ids"], StoredTensor("w", "F32", (9, 32), weight(9, 32)))
        for _ in range(2):
            y = ops.transpose(ops.reshape(x, (0, 0, 4, 8)), (0, 2, 1, 3))
            k, v = ops.crop(y, 1, 0, 2), ops.crop(y, 1, 2, 4)
            y = ops.grouped_attention(y, k, v, inputs["attention_mask"])
            x = ops.reshape(ops.transpose(y, (0, 2, 1, 3)), (0, 0, 32))
        return ops.mean(x, (1,))

    model = emit_model({"input_ids": None, "attention_mask": None}, build_masked, FLOAT32)
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    nodes = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = Counter(each["layerType"].astype(str) for each in nodes)
    assert kinds["Subgraph"] == 2 * COUNT
    assert not kinds["Softmax"]
    assert not kinds["MatMul"]


@pytest.mark.parametrize("length", [1, FEWEST, COUNT * FEWEST + 1])
def test_a_static_graph_holds_no_empty_blocks(length: int) -> None:
    """What an NPU is given: one shape, known when it is compiled."""
    parameter = op.parameter([-1, 4, -1, 8], ov.Type.f32, name="x")
    parameter.output(0).set_names({"x"})
    ops = OpenVINOOps(FLOAT32)
    y = ops.grouped_attention(parameter, parameter, parameter)
    model = ov.Model([op.result(y)], [parameter], "static")
    model.reshape([1, 4, length, 8])
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    shapes = [node.get_output_shape(0) for node in compiled.get_runtime_model().get_ops()
              if node.get_output_size()]  # fmt: skip
    assert all(0 not in shape for shape in shapes)
    x = np.random.default_rng(5).standard_normal((1, 4, length, 8), dtype=np.float32)
    whole = attend_whole({"q": x, "k": x, "v": x})
    np.testing.assert_allclose(compiled({"x": x})[0], whole, atol=2e-6)
