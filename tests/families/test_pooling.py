"""Pooling and Dense layers against the modules of sentence-transformers (golden/pooling)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.checkpoints.modules import ACTIVATIONS, POOLING_MODES, Dense
from multimodal_embedding_serving.checkpoints.weights import StoredTensor, Weights
from multimodal_embedding_serving.families.pooling import Finish
from multimodal_embedding_serving.graph.openvino_ops import FLOAT32, OpenVINOOps
from multimodal_embedding_serving.graph.runtime import opset as op
from multimodal_embedding_serving.graph.runtime import ov
from tests.graph.emitters import EMITTERS

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "pooling" / "golden.npz")


def run(emitter: str, finish: Finish) -> Any:
    trial = {"x": GOLDEN["states"], "m": GOLDEN["mask"]}
    axes = dict.fromkeys("xm", (0, 1))
    (result,) = EMITTERS[emitter](
        lambda o, v: finish(o, v["x"], v["m"], lambda x: o.scale(x, 1.0)), [trial], axes
    )
    return result


@pytest.mark.parametrize("emitter", EMITTERS)
@pytest.mark.parametrize("mode", sorted(POOLING_MODES.values()))
def test_every_pooling_is_that_of_sentence_transformers(mode: str, emitter: str) -> None:
    """Before the vector's length is made 1: a Dense layer sees it."""
    found = run(emitter, Finish(mode))
    np.testing.assert_allclose(found, GOLDEN[f"pooling {mode}"], atol=1e-6)


@pytest.mark.parametrize("mode", ["mean", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_is_that_of_sentence_transformers(name: str, mode: str) -> None:
    weights = {
        key: StoredTensor(key, "F32", GOLDEN[key].shape, GOLDEN[key]) for key in ("weight", "bias")
    }
    layer = (Dense("2_Dense", ACTIVATIONS[name]), Weights(weights, file="w"))
    for emitter in EMITTERS:
        found = run(emitter, Finish(mode, (layer,)))
        np.testing.assert_allclose(found, GOLDEN[f"{mode} {name}"], atol=1e-5)


def test_a_weighted_mean_of_a_long_text_fits_float16() -> None:
    """The sum of the tokens' numbers is 5e8 at 32,768 tokens; float16 ends at 65,504."""
    x, mask = op.parameter([1, -1, 4], ov.Type.f32), op.parameter([1, -1], ov.Type.i32)
    model = ov.Model([op.result(OpenVINOOps(FLOAT32).position_mean(x, mask))], [x, mask], "t")
    for node in model.get_ordered_ops():
        for output in node.outputs():
            output.set_names({node.get_friendly_name()})
    sums = [n.output(0) for n in model.get_ordered_ops() if n.get_element_type() == ov.Type.f32]
    model.add_outputs([each for each in sums if each.get_node().get_type_name() != "Parameter"])
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    n = 4096
    values = compiled([np.ones((1, n, 4), np.float32), np.ones((1, n), np.int32)])
    assert max(np.abs(value).max() for value in values.values()) <= n + 1
