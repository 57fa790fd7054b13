from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from multimodal_embedding_serving.checkpoints import Weights, read_safetensors
from multimodal_embedding_serving.errors import CheckpointError
from tests.checkpoints.files import Arrays, write_safetensors


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    arrays: Arrays = {
        "vision.conv.weight": np.arange(12, dtype=np.float32).reshape(3, 4),
        "vision.conv.bias": np.arange(3, dtype=np.float16),
        "text.scale": np.array(2, dtype=np.float32),
    }
    return read_safetensors(write_safetensors(tmp_path / "tiny.safetensors", arrays))


def test_a_missing_tensor_names_the_file_and_the_tensor(weights: Weights) -> None:
    with pytest.raises(CheckpointError) as caught:
        weights["vision.norm.weight"]
    assert str(caught.value) == "tiny.safetensors: tensor 'vision.norm.weight' is missing"


def test_a_missing_tensor_under_a_prefix_is_named_in_full(weights: Weights) -> None:
    with pytest.raises(CheckpointError, match=r"tensor 'vision\.conv\.gain' is missing"):
        weights.sub("vision.").sub("conv.").tensor("gain")


def test_weights_are_a_mapping(weights: Weights) -> None:
    assert "text.scale" in weights
    assert "text.gain" not in weights
    assert weights.get("text.gain") is None
    assert sorted(weights) == ["text.scale", "vision.conv.bias", "vision.conv.weight"]
    assert sorted(weights.sub("vision.conv.")) == ["bias", "weight"]
    assert len(dict(weights)) == 3


def test_a_shape_is_checked_and_none_stands_for_any_size(weights: Weights) -> None:
    assert weights.tensor("vision.conv.weight", (3, 4)).shape == (3, 4)
    assert weights.tensor("vision.conv.weight", (None, 4)).shape == (3, 4)
    assert weights.tensor("text.scale", ()).shape == ()
    for shape in [(4, 3), (3,), (3, 4, 1), (), (None, 5)]:
        with pytest.raises(CheckpointError) as caught:
            weights.sub("vision.").tensor("conv.weight", shape)
        message = str(caught.value)
        assert "tiny.safetensors: tensor 'vision.conv.weight' has shape 3x4" in message


def test_a_float32_tensor_is_given_without_a_copy_and_a_float16_one_widened(
    weights: Weights,
) -> None:
    stored = weights["vision.conv.weight"]
    assert stored.float32() is stored.data
    widened = weights["vision.conv.bias"].float32()
    assert widened.dtype == np.float32
    assert widened.tolist() == [0, 1, 2]


def test_bfloat16_is_widened_bit_by_bit(tmp_path: Path) -> None:
    values = np.array([0, -0.0, 1.5, -3e38, np.inf, 2.0**-130, np.nan], dtype=np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    path = write_safetensors(tmp_path / "bf16.safetensors", {"x": bits})
    stored = read_safetensors(path)["x"]
    assert stored.dtype == "BF16"
    widened = stored.float32()
    assert widened.dtype == np.float32
    expected = (bits.astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(widened.view(np.uint32), expected.view(np.uint32))
    assert widened[2] == 1.5


def test_what_is_mapped_can_not_be_written(weights: Weights) -> None:
    with pytest.raises(ValueError, match="read-only"):
        weights["vision.conv.weight"].data[0, 0] = 1
