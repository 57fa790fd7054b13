"""The operations, in every emitter, against plain numpy; batch and length of any size."""

from __future__ import annotations

import numpy as np
import pytest

from multimodal_embedding_serving.checkpoints.weights import StoredTensor
from multimodal_embedding_serving.graph.openvino_ops import FLOAT16, INT8_WEIGHTS
from multimodal_embedding_serving.graph.ops import Ops
from tests.graph.emitters import EMITTERS, run_openvino
from tests.graph.operations import (
    HEADS,
    LENGTH,
    Operation,
    attend,
    centre,
    colours,
    convolve,
    erf,
    first_where,
    gelu_tanh,
    heads,
    ids,
    images,
    masks,
    places,
    rotate,
    rows,
    rows_and_mask,
    sigmoid,
    softmax,
    weight,
)

W, B = weight(5, 6), weight(5)
GAIN, SHIFT, TABLE, P = weight(6), weight(6), weight(9, 6), weight(6, 4)
K, D, KB = weight(4, 3, 3, 3), weight(8, 1, 3, 2), weight(4)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
PAIR, root = rows(6, count=2), np.sqrt

OPERATIONS = [
    Operation("constant", lambda o, v: o.add(v.x, o.constant(GAIN)), lambda v: v.x + GAIN),
    Operation("linear", lambda o, v: o.linear(v.x, W, B), lambda v: v.x @ W.T + B),
    Operation("linear without bias", lambda o, v: o.linear(v.x, W), lambda v: v.x @ W.T),
    Operation("project", lambda o, v: o.project(v.x, P), lambda v: v.x @ P),
    Operation("embedding", lambda o, v: o.embedding(v.ids, TABLE), lambda v: TABLE[v.ids], ids),
    Operation("conv2d", lambda o, v: o.conv2d(v.x, K, KB, stride=2, padding=1),
              lambda v: convolve(v.x, K, (2, 2), (1, 1, 1, 1), 1) + KB[:, None, None], images(3)),
    Operation("conv2d depth-wise",
              lambda o, v: o.conv2d(v.x, D, stride=(1, 2), padding=(0, 1, 2, 3), groups=4),
              lambda v: convolve(v.x, D, (1, 2), (0, 1, 2, 3), 4), images(4)),
    Operation("layer_norm", lambda o, v: o.layer_norm(v.x, GAIN, SHIFT, 0.3),
              lambda v: centre(v.x) / root(v.x.var(-1, keepdims=True) + 0.3) * GAIN + SHIFT),
    Operation("rms_norm", lambda o, v: o.rms_norm(v.x, GAIN, 0.3),
              lambda v: v.x / root((v.x**2).mean(-1, keepdims=True) + 0.3) * GAIN),
    Operation("add", lambda o, v: o.add(v.x, v.y), lambda v: v.x + v.y, PAIR),
    Operation("subtract", lambda o, v: o.subtract(v.x, v.y), lambda v: v.x - v.y, PAIR),
    Operation("multiply", lambda o, v: o.multiply(v.x, v.y), lambda v: v.x * v.y, PAIR),
    Operation("scale", lambda o, v: o.scale(v.x, -0.7), lambda v: v.x * -0.7),
    Operation("gelu", lambda o, v: o.gelu(v.x), lambda v: 0.5 * v.x * (1 + erf(v.x / root(2)))),
    Operation("gelu tanh", lambda o, v: o.gelu(v.x, "tanh"), lambda v: gelu_tanh(v.x)),
    Operation("quick_gelu", lambda o, v: o.quick_gelu(v.x), lambda v: v.x * sigmoid(1.702 * v.x)),
    Operation("silu", lambda o, v: o.silu(v.x), lambda v: v.x * sigmoid(v.x)),
    Operation("relu", lambda o, v: o.relu(v.x), lambda v: np.maximum(v.x, 0)),
    Operation("relu6", lambda o, v: o.relu6(o.scale(v.x, 5)), lambda v: np.clip(5 * v.x, 0, 6)),
    Operation("sigmoid", lambda o, v: o.sigmoid(v.x), lambda v: sigmoid(v.x)),
    Operation("tanh", lambda o, v: o.tanh(v.x), lambda v: np.tanh(v.x)),
    Operation("softmax", lambda o, v: o.softmax(v.x), lambda v: softmax(v.x)),
    Operation("softmax of places", lambda o, v: o.softmax(v.x, 1), lambda v: softmax(v.x, 1)),
    Operation("attention", lambda o, v: o.attention(v.q, v.k, v.v),
              lambda v: attend(v.q, v.k, v.v, np.array(False)), heads(3, 4, "qkv"), HEADS),
    Operation("attention causal", lambda o, v: o.attention(v.q, v.k, v.v, causal=True),
              lambda v: attend(v.q, v.k, v.v, ~np.tri(v.q.shape[2], dtype=bool)),
              heads(3, 4, "qkv"), HEADS),
    Operation("attention masked", lambda o, v: o.attention(v.q, v.k, v.v, mask=v.m),
              lambda v: attend(v.q, v.k, v.v, v.m[:, None, None] == 0),
              heads(3, 4, "qkvm"), HEADS),
    Operation("rope", lambda o, v: o.rope(v.x, 100.0), lambda v: rotate(v.x, 100.0),
              heads(3, 8), HEADS),
    Operation("grouped_attention", lambda o, v: o.grouped_attention(v.q, v.k, v.v),
              lambda v: attend(v.q, v.k, v.v, ~np.tri(v.q.shape[2], dtype=bool)),
              heads(3, 4, "qkv"), HEADS),
    Operation("grouped_attention grouped",
              lambda o, v: o.grouped_attention(v.q, o.crop(v.k, 1, 0, 2), o.crop(v.v, 1, 0, 2)),
              lambda v: attend(v.q, v.k[:, :2].repeat(2, 1), v.v[:, :2].repeat(2, 1),
                               ~np.tri(v.q.shape[2], dtype=bool)),
              heads(4, 4, "qkv"), HEADS),
    Operation("grouped_attention masked",
              lambda o, v: o.grouped_attention(v.q, o.crop(v.k, 1, 0, 2), o.crop(v.v, 1, 0, 2),
                                               v.m),
              lambda v: attend(v.q, v.k[:, :2].repeat(2, 1), v.v[:, :2].repeat(2, 1),
                               v.m[:, None, None] == 0),
              heads(4, 4, "qkvm"), HEADS),
    Operation("by_tokens", lambda o, v: o.by_tokens(v.x, lambda y: o.linear(y, W, B)),
              lambda v: v.x @ W.T + B),
    Operation("reshape", lambda o, v: o.reshape(v.x, (0, -1, 3)),
              lambda v: v.x.reshape(len(v.x), -1, 3)),
    Operation("transpose", lambda o, v: o.transpose(v.x, (2, 0, 1)),
              lambda v: v.x.transpose(2, 0, 1)),
    Operation("concat", lambda o, v: o.concat([v.x, v.y], 1),
              lambda v: np.concatenate([v.x, v.y], 1), PAIR),
    Operation("crop", lambda o, v: o.crop(v.x, 2, 1, 4), lambda v: v.x[:, :, 1:4]),
    Operation("crop of places", lambda o, v: o.crop(v.x, 1, 0, 2), lambda v: v.x[:, :2]),
    Operation("head_rows", lambda o, v: o.add(v.x, o.head_rows(TABLE, v.x)),
              lambda v: v.x + TABLE[: v.x.shape[1]]),
    Operation("tile_batch", lambda o, v: o.concat([o.tile_batch(TABLE, v.x), v.x], 1),
              lambda v: np.concatenate([np.stack([TABLE] * len(v.x)), v.x], 1)),
    Operation("take_place", lambda o, v: o.take_place(v.x, v.p),
              lambda v: np.stack([x[p] for x, p in zip(v.x, v.p, strict=True)]), places),
    Operation("mean", lambda o, v: o.mean(v.x, (1,)), lambda v: v.x.mean(1)),
    Operation("mean kept", lambda o, v: o.mean(v.x, (2, 3), keep=True),
              lambda v: v.x.mean((2, 3), keepdims=True), images(3)),
    Operation("masked_mean", lambda o, v: o.masked_mean(v.x, v.m),
              lambda v: np.stack([x[m == 1].mean(0) for x, m in zip(v.x, v.m, strict=True)]),
              rows_and_mask),
    Operation("masked_mean root", lambda o, v: o.masked_mean(v.x, v.m, root=True),
              lambda v: np.stack([x[m == 1].sum(0) / root(m.sum())
                                  for x, m in zip(v.x, v.m, strict=True)]), rows_and_mask),
    Operation("masked_max", lambda o, v: o.masked_max(v.x, v.m),
              lambda v: np.stack([x[m == 1].max(0) for x, m in zip(v.x, v.m, strict=True)]),
              rows_and_mask),
    Operation("position_mean", lambda o, v: o.position_mean(v.x, v.m),
              lambda v: np.stack([np.average(x, 0, np.arange(1, len(m) + 1) * m)
                                  for x, m in zip(v.x, v.m, strict=True)]), rows_and_mask),
    Operation("first_place", lambda o, v: o.first_place(v.ids, 4),
              lambda v: first_where(v.ids == 4), ids),
    Operation("last_place", lambda o, v: o.last_place(v.m), lambda v: v.m.sum(1) - 1, masks),
    Operation("max_place", lambda o, v: o.max_place(v.ids), lambda v: v.ids.argmax(1), ids),
    Operation("l2_normalize", lambda o, v: o.l2_normalize(v.x),
              lambda v: v.x / np.linalg.norm(v.x, axis=-1, keepdims=True)),
    Operation("pixels", lambda o, v: o.pixels(v.x, MEAN, STD),
              lambda v: ((v.x / 255 - np.array(MEAN)) / STD).transpose(0, 3, 1, 2), colours),
]  # fmt: skip

SIZES = ((1, 7), (3, 5), (2, 9))
"""(batch, length) of the trials that one compiled graph is run on."""


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.name)
def test_an_operation_means_what_numpy_says(operation: Operation, emitter: str) -> None:
    rng = np.random.default_rng(3)
    trials = [operation.draw(rng, batch, length) for batch, length in SIZES]
    answers = EMITTERS[emitter](operation.build, trials, operation.dynamic)
    for trial, result in zip(trials, answers, strict=True):
        expected = operation.expect(trial)
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, atol=2e-5, rtol=1e-4)


def test_every_operation_of_the_protocol_is_tested() -> None:
    declared = {name for name in vars(Ops) if not name.startswith("_")}
    tested = {operation.name.split()[0] for operation in OPERATIONS}
    assert declared == tested


def test_a_causal_attention_refuses_a_mask_rather_than_ignore_it() -> None:
    trial = heads(3, 4, "qkvm")(np.random.default_rng(3), 2, 5)
    with pytest.raises(ValueError, match="mask or causal"):
        run_openvino(
            lambda o, v: o.attention(v["q"], v["k"], v["v"], causal=True, mask=v["m"]),
            [trial],
            HEADS,
        )


def test_an_id_that_is_not_there_pools_at_the_last_place() -> None:
    trial = {"ids": np.array([[1, 2, 3], [2, 3, 2]], np.int32)}
    for run in EMITTERS.values():
        (result,) = run(lambda o, v: o.first_place(v["ids"], 1), [trial], LENGTH)
        assert result.tolist() == [0, 2]


def test_a_zero_vector_stays_zero_instead_of_becoming_nan() -> None:
    trial = {"x": np.zeros((1, 1, 6), np.float32)}
    for run in EMITTERS.values():
        (result,) = run(lambda o, v: o.l2_normalize(v["x"]), [trial], LENGTH)
        assert not result.any()


STRIDED = np.arange(48, dtype=np.float16).reshape(6, 8) / 16


@pytest.mark.parametrize("data", [STRIDED.T[:5, :6], STRIDED[:5, 1:7], STRIDED[::-1][:5, :6]])
@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_a_weight_may_be_a_strided_view(data: np.ndarray, dtype: str) -> None:
    values = data if dtype == "F16" else data.astype(np.float32)[:, :]
    kept = StoredTensor("w", dtype, data.shape, values)  # type: ignore[arg-type]
    trial = rows(6)(np.random.default_rng(3), 2, 3)
    for storage in (FLOAT16, INT8_WEIGHTS):
        (result,) = run_openvino(lambda o, v: o.linear(v["x"], kept), [trial], LENGTH, storage)
        np.testing.assert_allclose(result, trial["x"] @ data.astype(np.float32).T, atol=0.1)


@pytest.mark.parametrize("skipped", [1, 2, 3])
def test_a_weight_may_lie_at_any_address(skipped: int) -> None:
    values = weight(5, 6)
    raw = np.frombuffer(bytes(skipped) + values.tobytes(), np.uint8)[skipped:]
    kept = StoredTensor("w", "F32", (5, 6), raw.view(np.float32).reshape(5, 6))
    trial = rows(6)(np.random.default_rng(3), 2, 3)
    (result,) = run_openvino(lambda o, v: o.linear(v["x"], kept), [trial], LENGTH)
    np.testing.assert_allclose(result, trial["x"] @ values.T, atol=1e-5)


def test_bfloat16_weights_are_kept_as_they_are() -> None:
    values = weight(5, 6)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    kept = StoredTensor("w", "BF16", (5, 6), bits)
    trial = rows(6)(np.random.default_rng(3), 2, 3)
    (result,) = run_openvino(lambda o, v: o.linear(v["x"], kept), [trial], LENGTH, FLOAT16)
    np.testing.assert_allclose(result, trial["x"] @ kept.float32().T, atol=1e-5)


def test_a_weight_beyond_float16_is_stored_in_float32() -> None:
    huge = np.array([[1e6, 1.0, 0, 0, 0, 0]], np.float32)
    trial = {"x": np.ones((1, 1, 6), np.float32)}
    (result,) = run_openvino(lambda o, v: o.linear(v["x"], huge), [trial], LENGTH, FLOAT16)
    assert result.item() == 1e6 + 1
