"""Alone or in any batch, in any order, beside any neighbours: the same vector.

Each family joins by a line in JOINED; `tests.parity.towers.alone_and_together` is the check.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.backends.openvino import compile_graph
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.families import FAMILIES
from multimodal_embedding_serving.types import Row, Vectors
from tests.parity.small import ENTRIES, model_type, pictures, small_arrays, small_config, texts
from tests.parity.small_mobileclip import PLACES, side_of
from tests.parity.test_mobileclip import open_small
from tests.parity.test_qwen_text import INDEX, SIZES, plan_text, small_row
from tests.parity.towers import (
    EXACT,
    Graphs,
    alone_and_together,
    compile_plan,
    read_towers,
    write_checkpoint,
)

BOUND = 0.99999
MAX_LENGTHS = {"clip": 77, "chinese_clip": 52, "siglip": 64, "blip-2": 64}


@dataclass(frozen=True)
class Joined:
    """A model's graphs in float32, and what they take."""

    graphs: Graphs
    read: Callable[[Sequence[int], int], list[Row]]
    """(lengths in tokens, seed) -> the rows of as many texts."""
    longest: int
    see: Callable[[int, int], list[Row]] | None = None
    """(how many, seed) -> pictures."""
    examples: int = 8
    """Batches that are drawn; fewer for a model of true size."""


def draw_pictures(side: int, count: int, seed: int) -> list[Row]:
    noise = np.random.RandomState(seed).randint(0, 256, (count, side, side, 3))
    return list(noise.astype(np.uint8))


def draw_texts(words: int, lengths: Sequence[int], seed: int) -> list[Row]:
    rng = np.random.RandomState(seed)
    return [rng.randint(1, words, length).astype(np.int32) for length in lengths]


def join_transformers(model: str, folder: Path) -> Joined:
    paths = write_checkpoint(folder / "model.safetensors", small_arrays(model, "transformers"))
    graphs = read_towers(paths, small_config(model)).compile(folder)
    longest = MAX_LENGTHS[model_type(model)]

    def read(lengths: Sequence[int], seed: int) -> list[Row]:
        return list(texts(model, *lengths, seed=seed))

    def see(count: int, seed: int) -> list[Row]:
        return list(pictures(model, count, seed=seed))

    return Joined(graphs, read, longest, see)


def join_mobileclip(model: str, folder: Path) -> Joined:
    small = open_small(model, "apple", folder)
    fixed = small.plan("text").transform["fixed_length"]

    def read(lengths: Sequence[int], seed: int) -> list[Row]:
        rows = draw_texts(ENTRIES - 1, lengths, seed)
        for row in rows:
            row[-1] = ENTRIES - 1
        return [np.pad(row, (0, PLACES - len(row))) if fixed else row for row in rows]

    graphs: Graphs = {"text": small.compile("text"), "image": small.compile("image")}
    return Joined(graphs, read, PLACES, partial(draw_pictures, side_of(model)))


def join_qwen(model: str, folder: Path) -> Joined:
    arrays, config = small_row(model)
    write_checkpoint(folder / INDEX, arrays)
    (folder / "config.json").write_text(json.dumps(config))
    graph = compile_plan(plan_text(folder), folder / "text-f32.xml")
    return Joined({"text": graph}, partial(draw_texts, SIZES["vocab_size"]), 64)


def join_builtin(model: str, folder: Path) -> Joined:
    """The bundle that is shipped: small as it is."""
    bundle = Bundle.load(Path(str(files("multimodal_embedding_serving") / "builtin" / model)))
    graphs: Graphs = {
        modality: compile_graph(bundle.graph(modality), EXACT)
        for modality in bundle.manifest.towers
    }
    side = int(bundle.manifest.towers["image"].transform["size"])
    return Joined(graphs, partial(draw_texts, 20_000), 40, partial(draw_pictures, side), 3)


JOINED: Mapping[str, Callable[[str, Path], Joined]] = {
    "Builtin/mini": join_builtin,
    "CLIP/clip-vit-b-16": join_transformers,
    "CN-CLIP/cn-clip-vit-b-16": join_transformers,
    "SigLIP/siglip2-vit-b-16": join_transformers,
    "Blip2/blip2_transformers": join_transformers,
    "MobileCLIP/mobileclip_s0": join_mobileclip,
    "MobileCLIP/mobileclip_b": join_mobileclip,
    "QwenText/qwen3-embedding-0.6b": join_qwen,
}
SEEING = [name for name in JOINED if not name.startswith("QwenText")]


@pytest.fixture(scope="module")
def join(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Joined]:
    joined: dict[str, Joined] = {}

    def open_one(name: str) -> Joined:
        if name not in joined:
            model = name.partition("/")[2]
            joined[name] = JOINED[name](model, tmp_path_factory.mktemp(model))
        return joined[name]

    return open_one


def test_every_family_has_joined() -> None:
    assert {name.partition("/")[0] for name in JOINED} == set(FAMILIES)


@pytest.mark.parametrize("name", JOINED)
def test_a_text_does_not_depend_on_its_batch(name: str, join: Callable[[str], Joined]) -> None:
    model = join(name)

    @settings(max_examples=model.examples)
    @given(data=st.data(), seed=st.integers(0, 2**16))
    def check(data: st.DataObject, seed: int) -> None:
        lengths = data.draw(st.lists(st.integers(2, model.longest), min_size=2, max_size=6))
        order = data.draw(st.permutations(range(len(lengths))))
        rows = model.read(lengths, seed)
        assert alone_and_together(model.graphs["text"], rows, order) >= BOUND

    check()


@pytest.mark.parametrize("name", SEEING)
def test_a_picture_does_not_depend_on_its_batch(name: str, join: Callable[[str], Joined]) -> None:
    model = join(name)
    assert model.see is not None
    see = model.see

    @settings(max_examples=model.examples)
    @given(data=st.data(), seed=st.integers(0, 2**16))
    def check(data: st.DataObject, seed: int) -> None:
        count = data.draw(st.integers(2, 5))
        order = data.draw(st.permutations(range(count)))
        assert alone_and_together(model.graphs["image"], see(count, seed), order) >= BOUND

    check()


class Leaky:
    """A graph whose vectors take a hundredth of their neighbours' mean."""

    precision, parallel, dimension = "f32", 1, 4

    def __call__(self, rows: Sequence[Row]) -> Vectors:
        own = np.eye(4, dtype=np.float32)[[int(row[0]) for row in rows]]
        mixed = own + 0.01 * own.mean(axis=0)
        return np.asarray(mixed / np.linalg.norm(mixed, axis=1, keepdims=True), np.float32)

    def close(self) -> None: ...


def test_rows_that_see_each_other_would_be_caught() -> None:
    rows: list[Row] = [np.array([place], np.int32) for place in range(3)]
    assert alone_and_together(Leaky(), rows, (2, 0, 1)) < BOUND
