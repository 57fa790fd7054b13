"""Weights to integers: how far off they may be, and that OpenVINO reads them so."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from multimodal_embedding_serving.checkpoints.weights import StoredTensor
from multimodal_embedding_serving.graph import quantize as module
from multimodal_embedding_serving.graph.openvino_ops import INT4_WEIGHTS, INT8_WEIGHTS
from multimodal_embedding_serving.graph.quantize import Quantized, quantize
from tests.graph.emitters import run_openvino

Bits = Literal[4, 8]


def draw(rows: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.01, 10, (rows, 1))
    return (scale * (rng.standard_normal((rows, width)) + rng.uniform(-2, 2))).astype(np.float32)


def restore(q: Quantized, bits: Bits) -> NDArray[np.float32]:
    """The weights that the integers stand for, by the definition."""
    levels = q.levels
    if bits == 4:
        levels = np.stack([levels & 15, levels >> 4], -1).reshape(len(levels), -1)
    groups = q.scale.shape[1]
    parts = levels.reshape(len(levels), groups, -1).astype(np.float32)
    values = (parts - q.zero[..., None]) * q.scale[..., None]
    return np.asarray(values.reshape(q.shape), np.float32)


def spacing(q: Quantized) -> NDArray[np.float32]:
    """The step between levels at each weight."""
    width = int(np.prod(q.shape[1:]))
    return q.scale.repeat(width // q.scale.shape[1], 1).reshape(q.shape)


@pytest.mark.parametrize("bits", [4, 8])
@given(rows=st.integers(1, 9), width=st.integers(1, 70), seed=st.integers(0, 99))
def test_no_weight_is_off_by_more_than_a_step(bits: Bits, rows: int, width: int, seed: int) -> None:
    weight = draw(rows, 2 * width, seed)
    q = quantize(weight, bits)
    # Half a step for the level, half a step for the zero point's own rounding.
    assert (np.abs(restore(q, bits) - weight) <= 1.01 * spacing(q)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_stays_zero(bits: Bits) -> None:
    weight = draw(6, 128)
    weight[:, ::3] = 0
    assert not restore(quantize(weight, bits), bits)[:, ::3].any()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_row_of_one_value_is_kept(bits: Bits) -> None:
    weight = np.array([[0.0] * 8, [3.5] * 8, [-2.25] * 8], np.float32)
    np.testing.assert_allclose(restore(quantize(weight, bits), bits), weight, rtol=1e-6)


def test_a_large_weight_in_one_row_does_not_spoil_the_others() -> None:
    weight = draw(4, 64)
    spoiled = weight.copy()
    spoiled[0, 0] = 1e4
    kept, result = restore(quantize(weight, 8), 8), restore(quantize(spoiled, 8), 8)
    assert np.array_equal(result[1:], kept[1:])


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_do_not_change_the_result(bits: Bits, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = draw(50, 128)
    whole = quantize(weight, bits)
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 128 * 7)
    parts = quantize(weight, bits)
    for name in ("levels", "zero", "scale"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))


def test_a_stored_bfloat16_tensor_is_quantised_by_its_values() -> None:
    bits = (draw(5, 64).view(np.uint32) >> 16).astype(np.uint16)
    stored = StoredTensor("w", "BF16", bits.shape, bits)
    result, expected = quantize(stored, 8), quantize(stored.float32(), 8)
    assert np.array_equal(result.levels, expected.levels)


def test_a_convolution_is_quantised_by_its_output_channels() -> None:
    weight = draw(6, 3 * 4 * 4).reshape(6, 3, 4, 4)
    q = quantize(weight, 8)
    assert q.shape == (6, 3, 4, 4)
    assert len(q.scale) == 6
    assert np.abs(restore(q, 8) - weight).max() <= 1.01 * q.scale.max()


@pytest.mark.parametrize(("bits", "storage"), [(8, INT8_WEIGHTS), (4, INT4_WEIGHTS)])
@pytest.mark.parametrize("width", [64, 66, 192])
def test_openvino_computes_with_the_same_weights(bits: Bits, storage: object, width: int) -> None:
    weight = draw(5, width)
    unit = np.eye(width, dtype=np.float32)[None]
    (result,) = run_openvino(
        lambda o, v: o.linear(v["x"], weight), [{"x": unit}], {"x": (0, 1)}, storage  # type: ignore[arg-type]
    )  # fmt: skip
    np.testing.assert_allclose(result[0].T, restore(quantize(weight, bits), bits), atol=1e-4)
