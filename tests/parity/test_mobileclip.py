"""MobileCLIP against open_clip and timm (golden vectors) and against a plain reference of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_embedding_serving.checkpoints import read_weights
from multimodal_embedding_serving.checkpoints.layouts import detect, rename
from multimodal_embedding_serving.checkpoints.mobileclip_names import LAYOUTS
from multimodal_embedding_serving.checkpoints.weights import StoredTensor, Weights
from multimodal_embedding_serving.families import Checkpoint, TowerSpec
from multimodal_embedding_serving.families.mobileclip import plan
from multimodal_embedding_serving.families.recognition import recognize_checkpoint
from multimodal_embedding_serving.types import Graph, Modality, Vectors
from tests.parity.apple_reference import Apple
from tests.parity.conftest import Note
from tests.parity.small import Arrays
from tests.parity.small_mobileclip import (
    PLACES,
    side_of,
    small_mobileclip,
    small_pictures,
    small_texts,
)
from tests.parity.towers import compile_plan, cosine, write_checkpoint

GOLDEN = Path(__file__).parent.parent / "golden" / "mobileclip"
BOUNDS = {"f32": 0.99999, "f16": 0.9999}
"""The precisions of every row: exact, and as it is stored."""
CHOSEN = {"int8-weights": 0.99, "bf16": 0.999}
CHOOSING = ("mobileclip_s0", "mobileclip_b")
"""Measured by choice too: one image tower and one text tower of each kind."""
APPLE = {
    "mobileclip_s0": "mobileclip_s0",
    "mobileclip_s1": "mobileclip_s1",
    "mobileclip_s2": "mobileclip_s2",
    "mobileclip_b": "mobileclip_b",
    "mobileclip_blt": "mobileclip_b",
}
OPEN_CLIP = {row: model for row, model in APPLE.items() if row != "mobileclip_s0"}
"""Row -> whose names and shapes its file has; B-LT is B trained for longer."""
RIGHT = 2e-5
"""Distance of unit vectors that float32's rounding explains."""
WRONG = 1e-4
"""Distance that it does not."""
FILES = {"apple": "mobileclip.pt", "open_clip": "open_clip_model.safetensors"}


@dataclass(frozen=True)
class Model:
    """A small checkpoint, opened from its file."""

    arrays: Arrays
    checkpoint: Checkpoint
    folder: Path
    compiled: dict[tuple[Modality, str], Graph] = field(default_factory=dict)

    def plan(self, modality: Modality) -> TowerSpec:
        return next(each for each in plan(self.checkpoint) if each.modality == modality)

    def compile(self, modality: Modality, precision: str = "f32") -> Graph:
        if (modality, precision) not in self.compiled:
            path = self.folder / f"{modality}-{precision}.xml"
            self.compiled[modality, precision] = compile_plan(self.plan(modality), path)
        return self.compiled[modality, precision]

    def changed(self, **facts: Any) -> Model:
        config = {**self.checkpoint.config, **facts}
        return replace(self, checkpoint=replace(self.checkpoint, config=config), compiled={})


def open_clip_config(model: str) -> dict[str, Any]:
    """The part of open_clip_config.json that is heeded."""
    text = {"context_length": PLACES, "no_causal_mask": model != "mobileclip_b"}
    return {"model_cfg": {"vision_cfg": {"image_size": side_of(model)}, "text_cfg": text}}


def open_small(model: str, layout: str, folder: Path, arrays: Arrays | None = None) -> Model:
    arrays = arrays or small_mobileclip(model, layout)
    paths = write_checkpoint(folder / FILES[layout], arrays)
    config = open_clip_config(model) if layout == "open_clip" else None
    family, checkpoint = recognize_checkpoint(read_weights(paths), config, None)
    assert family == "MobileCLIP"
    return Model(arrays, checkpoint, folder).changed(side=side_of(model))


@pytest.fixture(scope="module")
def apple(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Model]:
    names = ("mobileclip_s0", "mobileclip_s1", "mobileclip_s2", "mobileclip_b")
    return {name: open_small(name, "apple", tmp_path_factory.mktemp(name)) for name in names}


def distance(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """The largest distance of two vectors of one row."""
    return float(np.linalg.norm(found - expected, axis=1).max())


def golden(model: str) -> dict[Modality, Vectors]:
    facts = json.loads((GOLDEN / f"{model}.open_clip.json").read_text())
    return {"image": np.array(facts["image"]), "text": np.array(facts["text"])}


@pytest.mark.parametrize("row", OPEN_CLIP)
def test_openclip_files_give_openclip_s_vectors(row: str, tmp_path: Path, note: Note) -> None:
    model = OPEN_CLIP[row]
    small, expected = open_small(model, "open_clip", tmp_path), golden(model)
    for precision, bound in BOUNDS.items():
        seen = small.compile("image", precision)(small_pictures(model))
        read = small.compile("text", precision)(small_texts())
        least = min(cosine(seen, expected["image"]), cosine(read, expected["text"]))
        note(row, "open_clip", "open_clip_torch 3.3.0", precision, least)
        assert least >= bound, precision
        if precision == "f32":
            assert distance(seen, expected["image"]) < RIGHT


@pytest.mark.parametrize("row", APPLE)
def test_apple_s_files_give_the_reference_s_vectors(
    row: str, apple: Mapping[str, Model], note: Note
) -> None:
    model = APPLE[row]
    small, reference = apple[model], Apple(apple[model].arrays)
    bounds = BOUNDS | (CHOSEN if row in CHOOSING else {})
    seen, read = reference.images(small_pictures(model)), reference.texts(small_texts())
    for precision, bound in bounds.items():
        image, text = small.compile("image", precision), small.compile("text", precision)
        found, understood = image(small_pictures(model)), text(small_texts())
        least = min(cosine(found, seen), cosine(understood, read))
        if precision == "f32":  # what the traps below are measured by
            assert max(distance(found, seen), distance(understood, read)) < RIGHT
        note(row, "apple", "plain reference, float64", precision, least)
        assert least >= bound, precision


def test_apple_s_configuration_is_obeyed(apple: Mapping[str, Model]) -> None:
    tensors = read_weights([apple["mobileclip_s0"].folder / FILES["apple"]])
    text = {"n_heads_per_layer": 4, "causal_masking": True}
    config = {"image_cfg": {"image_size": 64}, "text_cfg": text}
    _, checkpoint = recognize_checkpoint(tensors, config, None)
    told = {name: checkpoint.config[name] for name in ("side", "heads", "causal")}
    assert told == {"side": 64, "heads": 4, "causal": True}


def test_the_same_weights_under_apple_s_names_give_openclip_s_vectors(
    apple: Mapping[str, Model], tmp_path: Path
) -> None:
    """The reading of Apple's layout held to an upstream library: S1 has no difference but names."""
    theirs = open_small("mobileclip_s1", "open_clip", tmp_path).checkpoint.weights
    arrays = dict(apple["mobileclip_s1"].arrays)
    for name, source in apple_names(arrays).items():
        if name.startswith("image."):
            value = theirs[name].float32()
            arrays[source] = value.reshape(arrays[source].shape) if value.ndim != 2 else value
            if name == "image.projection.weight":
                arrays[source] = value.T
    small = open_small("mobileclip_s1", "apple", tmp_path, arrays)
    found = small.compile("image")(small_pictures("mobileclip_s1"))
    assert distance(found, golden("mobileclip_s1")["image"]) < RIGHT


def apple_names(arrays: Arrays) -> dict[str, str]:
    """This project's name of a tensor -> the name in Apple's file."""
    marked = {
        name: StoredTensor(name, "F32", array.shape, array, file=name)
        for name, array in arrays.items()
    }
    weights = Weights(marked, file="apple")
    layout = detect(weights, LAYOUTS)
    assert layout is not None
    return {name: tensor.file for name, tensor in rename(weights, layout).items()}


IMAGE_TRAPS = [
    ("mobileclip_b", "first padding 0"),
    ("mobileclip_b", "timm's eps"),
    ("mobileclip_b", "mean and std"),
    ("mobileclip_s0", "tanh gelu"),
    ("mobileclip_s0", "no scale branch"),
    ("mobileclip_s0", "no skip branch"),
    ("mobileclip_s0", "norm added"),
    ("mobileclip_s0", "mean and std"),
]
TEXT_TRAPS = [
    ("mobileclip_b", "causal swapped"),
    ("mobileclip_s1", "causal swapped"),
    ("mobileclip_s0", "causal swapped"),
    ("mobileclip_s0", "no skip branch"),
    ("mobileclip_s0", "norm added"),
    ("mobileclip_s0", "last place"),
    ("mobileclip_s0", "projection transposed"),
    ("mobileclip_s0", "tanh gelu"),
]


@pytest.mark.parametrize(("model", "fault"), IMAGE_TRAPS)
def test_a_known_mistake_in_seeing_would_be_noticed(
    model: str, fault: str, apple: Mapping[str, Model]
) -> None:
    small, pictures = apple[model], small_pictures(model)[:2]
    found = small.compile("image")(pictures)
    assert distance(found, Apple(small.arrays, {fault}).images(pictures)) > WRONG


@pytest.mark.parametrize(("model", "fault"), TEXT_TRAPS)
def test_a_known_mistake_in_reading_would_be_noticed(
    model: str, fault: str, apple: Mapping[str, Model]
) -> None:
    small = apple[model]
    found = small.compile("text")(small_texts())
    assert distance(found, Apple(small.arrays, {fault}).texts(small_texts())) > WRONG


@pytest.mark.parametrize("change", [{"stem_padding": 1}, {"eps": 1e-5}], ids=str)
def test_apple_s_numbers_for_an_openclip_file_would_be_noticed(
    change: dict[str, Any], tmp_path: Path
) -> None:
    small = open_small("mobileclip_b", "open_clip", tmp_path).changed(**change)
    found = small.compile("image")(small_pictures("mobileclip_b"))
    assert distance(found, golden("mobileclip_b")["image"]) > WRONG


@pytest.mark.parametrize("model", ["mobileclip_s0", "mobileclip_s1", "mobileclip_s2"])
def test_texts_of_towers_that_see_the_padding_are_always_padded(
    model: str, apple: Mapping[str, Model]
) -> None:
    small = apple[model]
    transform = small.plan("text").transform
    assert (transform["fixed_length"], transform["max_length"], transform["pad_id"]) == (
        True,
        77,
        0,
    )
    graph, (short, *_) = small.compile("text"), small_texts()
    right = graph([short])
    trimmed = short[: np.flatnonzero(short)[-1] + 1]
    assert distance(graph([trimmed]), right) > WRONG
    otherwise = np.where(short == 0, 5, short).astype(np.int32)
    assert distance(graph([otherwise]), right) > WRONG


def test_texts_of_the_causal_tower_may_be_trimmed(apple: Mapping[str, Model]) -> None:
    small = apple["mobileclip_b"]
    assert not small.plan("text").transform["fixed_length"]
    graph, rows = small.compile("text"), small_texts()
    trimmed = [row[: np.flatnonzero(row)[-1] + 1] for row in rows]
    assert distance(graph(trimmed), graph(rows)) < RIGHT
