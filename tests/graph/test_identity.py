"""One hash for what a graph computes: the same everywhere, another after any change."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.checkpoints.weights import StoredTensor, Weights
from multimodal_embedding_serving.families import Checkpoint, TowerSpec
from multimodal_embedding_serving.families.clip import plan
from multimodal_embedding_serving.families.recognition import recognize_checkpoint
from multimodal_embedding_serving.graph.identity import hash_structure
from multimodal_embedding_serving.graph.openvino_ops import (
    FLOAT16,
    FLOAT32,
    INT4_WEIGHTS,
    INT8_WEIGHTS,
    Storage,
    emit_model,
)
from tests.parity.small import Arrays, small_arrays, small_config
from tests.parity.towers import read_towers, write_checkpoint

MODEL = "clip-vit-b-16"


def weights_of(arrays: Arrays) -> Weights:
    tensors = {name: StoredTensor(name, "F32", a.shape, a) for name, a in arrays.items()}
    return Weights(tensors, file="memory")


def small_checkpoint(arrays: Arrays | None = None, **text: Any) -> Checkpoint:
    arrays = small_arrays(MODEL, "transformers", layers=1) if arrays is None else arrays
    config = small_config(MODEL, layers=1)
    config["text_config"] |= text
    return recognize_checkpoint(weights_of(arrays), config, None)[1]


def hashes(checkpoint: Checkpoint, storage: Storage = FLOAT32) -> list[str]:
    """(image, text)"""
    return [hash_plan(each, storage) for each in plan(checkpoint)]


def hash_plan(tower: TowerSpec, storage: Storage) -> str:
    return hash_structure(emit_model(tower.inputs, tower.build, storage))


PRINT = f"from {__name__} import *; print(*hashes(small_checkpoint(), FLOAT16))"


def test_two_processes_agree() -> None:
    done = [
        subprocess.run([sys.executable, "-c", PRINT], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert done[0].stdout.split() == done[1].stdout.split() == hashes(small_checkpoint(), FLOAT16)


def test_two_layouts_of_one_model_have_one_identity(tmp_path: Path) -> None:
    """A model from the OpenCLIP file and the same one saved by transformers."""
    arrays = small_arrays(MODEL, "open_clip")
    paths = write_checkpoint(tmp_path / "open_clip_pytorch_model.bin", arrays)
    first = read_towers(paths, small_config(MODEL)).checkpoint
    renamed = {name: np.ascontiguousarray(t.data) for name, t in first.weights.items()}
    paths = write_checkpoint(tmp_path / "model.safetensors", renamed)
    second = read_towers(paths, small_config(MODEL)).checkpoint
    assert hashes(first) == hashes(second)


def test_a_change_of_any_weight_changes_its_tower() -> None:
    arrays = small_arrays(MODEL, "transformers", layers=1)
    image, text = hashes(small_checkpoint(arrays))
    for name, array in arrays.items():
        if name == "logit_scale":
            continue
        changed = array.copy()
        changed.flat[-1] += 0.01
        result = hashes(small_checkpoint(arrays | {name: changed}))
        of_image = name.startswith(("vision_model", "visual_projection"))
        assert [result[0] == image, result[1] == text] == [not of_image, of_image], name


def test_what_is_not_part_of_the_vectors_does_not_count() -> None:
    arrays = small_arrays(MODEL, "transformers", layers=1)
    other = arrays | {"logit_scale": np.full((), 9.0, np.float32)}
    assert hashes(small_checkpoint(other)) == hashes(small_checkpoint(arrays))


CHANGES: dict[str, dict[str, Any]] = {
    "activation": {"hidden_act": "gelu"},
    "tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "epsilon": {"layer_norm_eps": 1e-6},
    "heads": {"num_attention_heads": 4},
    "pooling": {"eos_token_id": 7},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_architecture_changes_it(change: str) -> None:
    image, text = hashes(small_checkpoint())
    result = hashes(small_checkpoint(**CHANGES[change]))
    assert result[0] == image
    assert result[1] != text


def test_the_pixels_scaling_counts() -> None:
    checkpoint = small_checkpoint()
    half = {**checkpoint.config, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert hashes(replace(checkpoint, config=half))[0] != hashes(checkpoint)[0]


def test_each_way_of_storing_the_weights_is_an_identity_of_its_own() -> None:
    checkpoint = small_checkpoint()
    kinds = (FLOAT32, FLOAT16, INT8_WEIGHTS, INT4_WEIGHTS)
    assert len({hashes(checkpoint, storage)[1] for storage in kinds}) == len(kinds)


Build = Callable[[Any, Any], Any]


def hash_of(build: Build) -> str:
    return hash_structure(emit_model({"input_ids": None}, build, FLOAT32))


TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_the_order_of_operands_counts() -> None:
    def difference(first: int, second: int) -> Build:
        def build(ops: Any, x: Any) -> Any:
            tables = [
                ops.embedding(x["input_ids"], TABLE + 1),
                ops.embedding(x["input_ids"], TABLE),
            ]
            return ops.mean(ops.subtract(tables[first], tables[second]), (1,))

        return build

    assert hash_of(difference(0, 1)) != hash_of(difference(1, 0))


def test_causal_attention_counts() -> None:
    def attend(causal: bool) -> Build:
        def build(ops: Any, x: Any) -> Any:
            y = ops.reshape(ops.embedding(x["input_ids"], TABLE), (0, 0, 1, 3))
            y = ops.transpose(y, (0, 2, 1, 3))
            return ops.mean(ops.attention(y, y, y, causal=causal), (1, 2))

        return build

    assert hash_of(attend(True)) != hash_of(attend(False))
