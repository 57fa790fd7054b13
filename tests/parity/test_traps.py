"""Each known trap of these families, put back by hand: the right way agrees, the trap does not.

Where a trap lies in a configuration, the configuration is changed; where it lies in a computation,
the wrong computation is done with the oracle's own parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_embedding_serving.types import Row, Vectors
from tests.parity.oracles import Oracle
from tests.parity.small import ENTRIES, pictures, small_arrays, small_config, texts
from tests.parity.towers import Graphs, Towers, read_towers, strip, write_checkpoint

RIGHT = 2e-5
"""Distance of unit vectors that float32's rounding explains."""
WRONG = 1e-3
"""Distance that it does not."""

Opened = tuple[Towers, Graphs, Oracle]


@pytest.fixture(scope="module")
def open_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Opened]:
    opened: dict[str, Opened] = {}

    def open_one(model: str) -> Opened:
        if model not in opened:
            folder = tmp_path_factory.mktemp("traps")
            layers = 3 if model.startswith("blip2") else 2
            arrays = small_arrays(model, "transformers", layers=layers)
            config = strip(small_config(model, layers=layers))
            towers = read_towers(write_checkpoint(folder / "model.safetensors", arrays), config)
            opened[model] = towers, towers.compile(folder), Oracle(config, arrays)
        return opened[model]

    return open_one


def reopen(model: str, folder: Path, change: Mapping[str, Mapping[str, Any]]) -> Graphs:
    """The same tensors under a changed configuration."""
    config = small_config(model)
    for section, settings in change.items():
        config[section] |= settings
    arrays = small_arrays(model, "transformers")
    return read_towers(write_checkpoint(folder / "model.safetensors", arrays), config).compile(
        folder
    )


OpenModel = Callable[[str], Opened]


def distance(found: Vectors, expected: NDArray[np.float32]) -> float:
    """The largest distance of `found` to the expected vectors at unit length."""
    return float(np.linalg.norm(found - unit(expected), axis=1).max())


def unit(vectors: NDArray[np.float32]) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def test_openais_weights_with_the_plain_gelu_are_wrong(
    open_model: OpenModel, tmp_path: Path
) -> None:
    model = "clip-vit-b-16"
    _, graphs, oracle = open_model(model)
    images, words = pictures(model, 3), texts(model, 9, 30)
    seen, read = oracle.images(images), oracle.texts(words, 77, ENTRIES - 1)
    assert distance(graphs["image"](images), seen) < RIGHT
    assert distance(graphs["text"](words), read) < RIGHT
    gelu = {"hidden_act": "gelu"}
    trapped = reopen(model, tmp_path, {"vision_config": gelu, "text_config": gelu})
    assert distance(trapped["image"](images), seen) > WRONG
    assert distance(trapped["text"](words), read) > WRONG


def test_clip_pools_at_the_first_end_of_text(open_model: OpenModel) -> None:
    """CLIP pads with the same id: the last one is padding in a place of no meaning."""
    model = "clip-vit-b-16"
    _, graphs, oracle = open_model(model)
    (row,) = texts(model, 9)
    padded = np.concatenate([row, np.full(20, ENTRIES - 1, np.int32)])
    expected = oracle.texts([row], 77, ENTRIES - 1)
    assert distance(graphs["text"]([row]), expected) < RIGHT
    assert distance(graphs["text"]([padded]), expected) < RIGHT
    other = np.concatenate([row, texts(model, 20)[0]])  # whatever follows the first one
    assert distance(graphs["text"]([other]), expected) < RIGHT


def test_an_old_configs_end_token_of_2_means_the_last_of_the_vocabulary(tmp_path: Path) -> None:
    model = "clip-vit-b-32"
    arrays, config = small_arrays(model, "transformers"), small_config(model)
    config["text_config"] |= {"eos_token_id": 2, "bos_token_id": 0}
    words: list[Row] = list(texts(model, 9, 30))
    words[1][5] = 2  # an ordinary word
    towers = read_towers(write_checkpoint(tmp_path / "model.safetensors", arrays), config)
    assert towers.plan("text").transform["pad_id"] == ENTRIES - 1
    expected = Oracle(config, arrays).texts(words, 77, 0)
    assert distance(towers.compile(tmp_path)["text"](words), expected) < RIGHT


def test_clips_text_is_cut_at_77_with_its_end_kept(open_model: OpenModel) -> None:
    model = "clip-vit-b-16"
    towers, graphs, oracle = open_model(model)
    transform = towers.plan("text").transform
    assert (transform["max_length"], transform["eos_kept"]) == (77, True)
    full = texts(model, 77)
    assert distance(graphs["text"](full), oracle.texts(full, 77, ENTRIES - 1)) < RIGHT


def test_siglips_texts_are_always_of_64_places(open_model: OpenModel) -> None:
    """Trimmed to its words, a text pools at a word: cosine .2; so the graph takes no such batch."""
    model = "siglip2-vit-b-16"
    towers, graphs, oracle = open_model(model)
    transform = towers.plan("text").transform
    assert transform["fixed_length"]
    assert (transform["max_length"], transform["pad_id"]) == (64, 0)
    rows = texts(model, 9, 30)
    expected = oracle.texts(rows, 64, 0)
    assert distance(graphs["text"](rows), expected) < RIGHT
    with pytest.raises(RuntimeError):
        graphs["text"]([row[:30] for row in rows])
    trimmed = oracle.texts([row[:30] for row in rows], 30, 0)
    assert distance(unit(trimmed), expected) > WRONG


def test_siglip_is_padded_on_the_right_and_with_zero(open_model: OpenModel) -> None:
    model = "siglip2-vit-b-16"
    _, graphs, oracle = open_model(model)
    (row,) = texts(model, 9)
    left = np.concatenate([np.zeros(55, np.int32), row[:9]])
    ones = np.where(np.arange(64) < 9, row, 1).astype(np.int32)
    expected = oracle.texts([row], 64, 0)
    assert distance(graphs["text"]([left]), expected) > WRONG
    assert distance(graphs["text"]([ones]), expected) > WRONG


def test_siglips_texts_are_lower_cased(open_model: OpenModel) -> None:
    towers, _, _ = open_model("siglip2-vit-b-16")
    assert towers.plan("text").transform["lowercase"]


def test_siglips_probe_is_not_added_back(open_model: OpenModel) -> None:
    model = "siglip2-vit-b-16"
    _, graphs, oracle = open_model(model)
    images = pictures(model, 3)
    expected = oracle.images(images)
    probe = oracle.model.vision_model.head.probe.detach().numpy().reshape(1, -1)
    found = graphs["image"](images)
    assert distance(found, expected) < RIGHT
    assert distance(found, expected + probe) > WRONG


def blip2_queries(oracle: Oracle, images: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
    """The 32 projected vectors of each picture, by the oracle's own parts."""
    kept: list[Any] = []
    hook = oracle.model.vision_projection.register_forward_hook(
        lambda module, given, answer: kept.append(answer)
    )
    oracle.images(images)
    hook.remove()
    return np.asarray(kept[0].numpy())


def test_blip2_takes_the_mean_before_the_length(open_model: OpenModel) -> None:
    model = "blip2_transformers"
    _, graphs, oracle = open_model(model)
    images = pictures(model, 3)
    queries = blip2_queries(oracle, images)
    assert queries.shape == (3, 32, 32)
    found = graphs["image"](images)
    assert distance(found, queries.mean(1)) < RIGHT
    assert distance(found, unit(queries).mean(1)) > WRONG
    assert distance(found, queries.max(1)) > WRONG
    assert distance(found, queries[:, 0]) > WRONG


def test_blip2s_queries_look_at_the_picture_in_even_layers_only(open_model: OpenModel) -> None:
    model = "blip2_transformers"
    towers, graphs, oracle = open_model(model)
    crossing = {name.split(".")[3] for name in towers.checkpoint.weights if ".cross" in name}
    assert crossing == {"0", "2"}
    images = pictures(model, 3)
    expected = oracle.images(images)
    assert distance(graphs["image"](images), expected) < RIGHT
    layer = oracle.model.qformer.encoder.layer[2]
    layer.has_cross_attention = False
    try:
        assert distance(graphs["image"](images), oracle.images(images)) > WRONG
    finally:
        layer.has_cross_attention = True


def test_blip2s_texts_have_a_feed_forward_of_their_own(open_model: OpenModel) -> None:
    model = "blip2_transformers"
    _, graphs, oracle = open_model(model)
    words = texts(model, 9, 30)
    expected = oracle.texts(words, 64, 0)
    assert distance(graphs["text"](words), expected) < RIGHT
    for layer in oracle.model.qformer.encoder.layer:
        layer.intermediate, layer.intermediate_query = layer.intermediate_query, layer.intermediate
        layer.output, layer.output_query = layer.output_query, layer.output
    try:
        assert distance(graphs["text"](words), oracle.texts(words, 64, 0)) > WRONG
    finally:
        for layer in oracle.model.qformer.encoder.layer:
            layer.intermediate, layer.intermediate_query = (
                layer.intermediate_query,
                layer.intermediate,
            )
            layer.output, layer.output_query = layer.output_query, layer.output


@pytest.mark.parametrize("model", ["cn-clip-vit-b-16", "blip2_transformers"])
def test_padding_is_masked_where_attention_goes_both_ways(
    open_model: OpenModel, model: str
) -> None:
    _, graphs, oracle = open_model(model)
    (row,) = texts(model, 9)
    padded = np.concatenate([row, np.zeros(20, np.int32)])
    expected = oracle.texts([row], 52, 0)
    assert distance(graphs["text"]([row, *texts(model, 40)])[:1], expected) < RIGHT
    assert distance(graphs["text"]([padded]), expected) > WRONG


RESIZES = {
    "clip-vit-b-16": "short_side",
    "cn-clip-vit-b-16": "squash",
    "siglip2-vit-b-16": "squash",
    "blip2_transformers": "squash",
}


@pytest.mark.parametrize("model", RESIZES)
def test_pictures_are_brought_to_size_as_the_family_was_trained(
    open_model: OpenModel, model: str
) -> None:
    towers, _, _ = open_model(model)
    plan = towers.plan("image")
    assert plan.transform["resize"] == RESIZES[model]
    assert plan.transform["resample"] == "bicubic"
    assert plan.transform["patches"] == 4
    assert plan.inputs == {"pixels": plan.transform["size"]}


def test_the_text_of_chinese_clip_is_cut_at_52(open_model: OpenModel) -> None:
    towers, _, _ = open_model("cn-clip-vit-b-16")
    transform = towers.plan("text").transform
    assert (transform["max_length"], transform["pad_id"]) == (52, 0)


@pytest.mark.parametrize("model", RESIZES)
def test_different_items_get_different_vectors(open_model: OpenModel, model: str) -> None:
    _, graphs, _ = open_model(model)
    for vectors in (graphs["image"](pictures(model, 2)), graphs["text"](texts(model, 9, 12))):
        assert np.isfinite(vectors).all()
        assert np.linalg.norm(vectors[0] - vectors[1]) > 1e-3
