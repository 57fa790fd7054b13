"""ViT-B/32 at its true size: from the hub to vectors over HTTP, and killed on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from multimodal_embedding_serving.client.protocol import encode_base64, encode_lossless
from multimodal_embedding_serving.conversion.parity import (
    run_float32,
    run_layer_by_layer,
)
from multimodal_embedding_serving.conversion.probe_inputs import probe_rows
from multimodal_embedding_serving.graph.openvino_ops import FLOAT32, emit_model
from multimodal_embedding_serving.monitoring.memory import MemoryPeak, private_memory
from multimodal_embedding_serving.transforms.image import ImageTransform
from tests.conftest import Figure
from tests.e2e.conversion import (
    CONVERTED,
    LAION,
    SERVE,
    TEXTS,
    Place,
    embed,
    embed_texts,
    follow_until_ready,
    length_of_conversion,
    several,
    survive_kills,
)
from tests.hub_standin import HubStandIn
from tests.media_files import photo
from tests.parity.oracles import Oracle
from tests.parity.small import Arrays, draw, read_layout
from tests.parity.towers import cosine, read_towers, strip, write_checkpoint
from tests.serving import serving
from tests.small_clip import repository, write_tokenizer

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Whole:
    """ViT-B/32's checkpoint at its true size, with random values."""

    folder: Path
    config: Mapping[str, Any]
    arrays: Arrays


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("checkpoints") / "whole"
    folder.mkdir()
    shapes = read_layout("clip-vit-b-32", "transformers")
    arrays = {name: draw(name, shape, 0) for name, shape in shapes}
    both = {"num_hidden_layers": 12, "hidden_act": "gelu"}
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
    text |= {"vocab_size": 49408, "max_position_embeddings": 77, "eos_token_id": 49407}
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    vision |= {"image_size": 224, "patch_size": 32}
    sections = {"text_config": both | text, "vision_config": both | vision}
    config = strip({"model_type": "clip", "projection_dim": 512, **sections})
    write_checkpoint(folder / "model.safetensors", arrays)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    write_tokenizer(folder, built=True, entries=49408)
    return Whole(folder, config, arrays)


def test_vit_b_32_of_true_size_goes_from_the_hub_to_vectors_over_http(
    hub: HubStandIn, whole: Whole, tmp_path: Path, figure: Figure
) -> None:
    hub.add(LAION, repository(whole.folder))
    place = Place(hub, tmp_path)
    images = [photo(640, 480, seed=1), photo(97, 300, seed=2), photo(224, 224, seed=3)]
    with serving(SERVE, environ=place.environ, wait=False) as running:
        told = follow_until_ready(running)
        read = embed_texts(running)
        coded = [encode_base64(encode_lossless(image)) for image in images]
        seen = embed(running, {"type": "image_base64", "image_base64": coded}).json()["embedding"]
    check_stages(told)
    actual = CONVERTED.search("".join(running.log))
    assert actual
    figure(f"ViT-B/32 of true size, beside a test that watches: {actual[0]}")
    assert int(actual["building_mb"]) < 2 * int(actual["bundle_mb"])
    oracle = Oracle(whole.config, whole.arrays)
    tokenizer = Tokenizer.from_file(str(whole.folder / "tokenizer.json"))
    rows = [np.array(tokenizer.encode(text).ids, np.int32) for text in TEXTS]
    to_size = ImageTransform(224, "short_side", "bicubic", 49)
    expected = oracle.images([to_size(image) for image in images])
    assert cosine(read, oracle.texts(rows, 77, 49407)) >= 0.9999
    assert cosine(np.array(seen, np.float32), expected) >= 0.9999
    # The check has teeth: what belongs to another item is far off.
    assert cosine(np.array(seen, np.float32)[[1, 2, 0]], expected) < 0.9
    assert cosine(read[[1, 2, 0]], oracle.texts(rows, 77, 49407)) < 0.9


def check_stages(told: list[tuple[str, int]]) -> None:
    """The stages come one after the other, and within each the percentage never falls."""
    stages = [stage for stage, _ in groupby(told, key=lambda each: each[0])]
    assert len(stages) == len(set(stages)), stages
    assert {"downloading the checkpoint", "checking accuracy"} <= set(stages)
    for stage, items in groupby(told, key=lambda each: each[0]):
        shares = [percent for _, percent in items]
        assert shares == sorted(shares), stage
        if stage == "downloading the checkpoint":
            assert len(set(shares)) > 2, shares


def test_the_conversion_of_vit_b_32_is_timed(
    whole: Whole, tmp_path: Path, hub: HubStandIn, figure: Figure
) -> None:
    """By `mmes convert`, from its checkpoint in a folder, including the accuracy check."""
    hub.add(LAION, repository(whole.folder))
    place = Place(hub, tmp_path)
    length_of_conversion(place)  # downloads
    lengths = [length_of_conversion(place, "--force") for _ in range(3)]
    figure(
        f"mmes convert of ViT-B/32, from reading the checkpoint to the bundle: "
        f"{min(lengths):.1f} s at least, {median(lengths):.1f} s in the middle of {len(lengths)}"
    )


def test_the_reference_layer_by_layer_takes_little_memory(whole: Whole) -> None:
    towers = read_towers([whole.folder / "model.safetensors"], whole.config)
    plan = towers.plan("image")
    rows = probe_rows("image", plan.transform, None)
    before = private_memory()
    with MemoryPeak() as layers:
        actual = run_layer_by_layer(plan, rows)
    with MemoryPeak() as graph:
        expected = run_float32(plan, emit_model(plan.inputs, plan.build, FLOAT32), rows)
    assert (actual * expected).sum(1).min() >= 0.999999
    assert layers.bytes - before < (graph.bytes - before) / 3


def test_a_conversion_of_true_size_may_be_killed_at_any_moment(
    hub: HubStandIn, whole: Whole, tmp_path: Path
) -> None:
    hub.add(LAION, repository(whole.folder))
    place = Place(hub, tmp_path)
    length_of_conversion(place)  # downloads
    length = length_of_conversion(place, "--force")
    survive_kills(place, several(place, 5), length)
