"""ViT-B/32 at its true size: from the hub to vectors over HTTP, and killed on the way."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from tests.e2e.conversion import (
    CONVERTED,
    LAION,
    SERVE,
    TEXTS,
    Place,
    embed,
    embed_texts,
    killed_places,
    length_of_conversion,
    survive_kills,
)
from tests.hub_standin import HubStandIn
from tests.parity.oracles import Oracle
from tests.parity.small import Arrays, draw, read_layout
from tests.parity.towers import cosine, strip, write_checkpoint
from tests.serving import PATIENCE, Running, serving
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
    hub: HubStandIn, whole: Whole, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    hub.add(LAION, repository(whole.folder))
    place = Place(hub, tmp_path)
    with serving(SERVE, environ=place.environ, wait=False) as running:
        stages = follow_until_ready(running)
        vectors = embed_texts(running)
        picture = np.random.RandomState(0).randint(0, 256, (224, 224, 3)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "noise.png")
        coded = (tmp_path / "noise.png").read_bytes()
        image = embed(running, image_source(coded)).json()["embedding"]
    named = [stage for stage, _ in stages]
    assert any("downloading" in stage for stage in named)
    assert any("building the graphs" in stage or "certifying" in stage for stage in named)
    found = CONVERTED.search("".join(running.log))
    assert found
    figure(
        f"ViT-B/32 of true size: built in {found['building_s']} s and certified in "
        f"{found['certifying_s']} s, {found['bundle_mb']} MB, {found['building_mb']} MB of private "
        "memory while building"
    )
    assert int(found["building_mb"]) < 2 * int(found["bundle_mb"])
    oracle = Oracle(whole.config, whole.arrays)
    tokenizer = Tokenizer.from_file(str(whole.folder / "tokenizer.json"))
    rows = [np.array(tokenizer.encode(text).ids, np.int32) for text in TEXTS]
    assert cosine(vectors, oracle.texts(rows, 77, 49407)) >= 0.9999
    assert cosine(np.array([image], np.float32), oracle.images([picture])) >= 0.9999


def image_source(coded: bytes) -> dict[str, str]:
    return {"type": "image_base64", "image_base64": base64.b64encode(coded).decode()}


def follow_until_ready(running: Running) -> list[tuple[str, float]]:
    """What /ready tells until it is 200: (stage, percentage), and the server answers meanwhile."""
    stages: list[tuple[str, float]] = []
    with httpx2.Client(base_url=running.url, timeout=PATIENCE, trust_env=False) as http:
        for _ in range(int(PATIENCE * 50)):
            answer = http.get("/ready")
            if answer.status_code == 200:
                return stages
            assert answer.status_code == 503
            assert http.get("/live").status_code == 200
            told = answer.json()["detail"]
            stage = re.search(r"not open yet: (.+), (\d+)%", told)
            assert stage, told
            stages.append((stage[1], float(stage[2])))
            time.sleep(0.02)
    raise AssertionError(f"never ready: {stages[-3:]}")


def test_a_conversion_of_true_size_may_be_killed_at_any_moment(
    hub: HubStandIn, whole: Whole, tmp_path: Path
) -> None:
    hub.add(LAION, repository(whole.folder))
    place = Place(hub, tmp_path)
    length_of_conversion(place)  # downloads
    length = length_of_conversion(
        Place(hub, tmp_path / "again", {"HF_HOME": str(tmp_path / "home")})
    )
    survive_kills(killed_places(place, 5, same_home=True), length, 5)
