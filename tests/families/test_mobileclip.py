"""MobileCLIP's plans, and which checkpoints may be opened as which row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.catalog import resolve
from multimodal_embedding_serving.checkpoints.weights import StoredTensor, Weights
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import TowerSpec, find_family
from multimodal_embedding_serving.families.recognition import recognize_checkpoint
from multimodal_embedding_serving.graph.folding import convolve, fold_branches
from multimodal_embedding_serving.graph.numpy_ops import NumpyOps
from tests.parity.small import read_layout

ROWS = ("mobileclip_s0", "mobileclip_s1", "mobileclip_s2", "mobileclip_b")
FILES = [(model, "apple") for model in ROWS] + [(model, "open_clip") for model in ROWS[1:]]


def true_size(model: str, layout: str) -> Weights:
    """Every tensor of the real file in its real shape, all of one stored number."""
    one = np.ones(1, np.float32)
    tensors = {
        name: StoredTensor(name, "F32", shape, np.broadcast_to(one, shape) if shape else one[0:])
        for name, shape in read_layout(model, layout)
    }
    return Weights(tensors, file=f"{model}.pt")


def open_row(model: str, layout: str, row: str | None = None) -> dict[str, TowerSpec]:
    config: dict[str, Any] | None = None
    if layout == "open_clip":
        config = {"model_cfg": {"text_cfg": {"no_causal_mask": model != "mobileclip_b"}}}
    spec = resolve(row or model)
    family, checkpoint = recognize_checkpoint(true_size(model, layout), config, spec)
    return {plan.modality: plan for plan in find_family(family).plan(checkpoint)}


@pytest.mark.parametrize(("model", "layout"), FILES)
def test_a_row_opens_its_own_file_in_each_layout(model: str, layout: str) -> None:
    plans = open_row(model, layout)
    side = resolve(model).image_size
    assert plans["image"].transform == {
        "size": side,
        "resize": "short_side",
        "resample": "bilinear",
        "patches": 196 if model == "mobileclip_b" else 64,
    }
    assert plans["text"].transform == {
        "max_length": 77,
        "pad_id": 0,
        "eos_kept": True,
        "fixed_length": model != "mobileclip_b",
    }
    assert plans["image"].dimension == plans["text"].dimension == 512


@pytest.mark.parametrize(
    ("model", "row"),
    [
        ("mobileclip_s0", "mobileclip_s1"),
        ("mobileclip_s1", "mobileclip_s2"),
        ("mobileclip_s2", "mobileclip_s0"),
        ("mobileclip_b", "mobileclip_s0"),
        ("mobileclip_s2", "mobileclip_b"),
    ],
)
def test_the_file_of_another_row_is_refused(model: str, row: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{model}.pt: .* is not that of MobileCLIP/{row}"):
        open_row(model, "apple", row)


def test_b_lt_has_the_shapes_of_b() -> None:
    plans = open_row("mobileclip_b", "apple", "mobileclip_blt")
    assert plans["image"].dimension == 512


def test_b_s_causal_text_is_known_without_a_config() -> None:
    _, checkpoint = recognize_checkpoint(true_size("mobileclip_b", "open_clip"), None, None)
    assert checkpoint.config["causal"]
    assert checkpoint.config["side"] == 224
    _, checkpoint = recognize_checkpoint(true_size("mobileclip_s1", "open_clip"), None, None)
    assert not checkpoint.config["causal"]
    assert checkpoint.config["side"] == 256


def test_another_picture_size_than_the_positions_is_refused() -> None:
    config = {"model_cfg": {"vision_cfg": {"image_size": 256}}}
    with pytest.raises(CheckpointError, match="images of 224 pixels, not of 256"):
        recognize_checkpoint(true_size("mobileclip_b", "open_clip"), config, None)


@pytest.mark.parametrize(("model", "layout"), [("mobileclip_s0", "apple")])
def test_a_missing_branch_is_an_error(model: str, layout: str) -> None:
    name = "image_encoder.model.network.0.0.token_mixer.mixer.rbr_skip.weight"
    whole = true_size(model, layout)
    cut = Weights({key: whole[key] for key in whole if key != name}, file="cut.pt")
    with pytest.raises(CheckpointError, match=r"rbr_skip\.weight' is missing"):
        recognize_checkpoint(cut, None, None)


@pytest.mark.parametrize("inner", [1, 6], ids=["depth-wise", "full"])
def test_folded_branches_are_their_sum(inner: int) -> None:
    rng = np.random.default_rng(3)
    shapes = {"conv": (6, inner, 3, 3), "scale": (6, inner, 1, 1)}
    arrays = {f"{name}.weight": rng.standard_normal(shape) for name, shape in shapes.items()}
    for norm in ("conv.norm", "scale.norm", "skip"):
        for part in ("weight", "bias", "running_mean"):
            arrays[f"{norm}.{part}"] = rng.standard_normal(6)
        arrays[f"{norm}.running_var"] = rng.uniform(0.001, 2, 6)
    w = Weights(
        {name: StoredTensor(name, "F64", a.shape, a) for name, a in arrays.items()}, file="f"
    )
    ops, x = NumpyOps(), rng.standard_normal((2, 6, 5, 5)).astype(np.float32)

    def normed(y: Any, name: str) -> Any:
        weight, bias, mean, var = (
            arrays[f"{name}.{part}"][:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (y - mean) / np.sqrt(var + 1e-5) * weight + bias

    expected = normed(x, "skip")
    for name, padding in (("conv", 1), ("scale", 0)):
        y = ops.conv2d(x, arrays[f"{name}.weight"], padding=padding, groups=6 // inner)
        expected = expected + normed(y, f"{name}.norm")
    found = convolve(ops, x, fold_branches(w), 6)
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()
