"""Every row of these families in the transformers layout, against the transformers library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.parity.conftest import Note
from tests.parity.oracles import Oracle, oracle_name
from tests.parity.small import Arrays, model_type, pictures, small_arrays, small_config, texts
from tests.parity.towers import cosine, read_towers, strip, write_checkpoint

BOUNDS = {"f32": 0.99999, "f16": 0.9999, "int8-weights": 0.99}
BF16 = {"bf16": 0.999}
ROUNDED = ("clip-vit-b-16", "cn-clip-vit-b-16", "siglip2-vit-b-16", "blip2_transformers")
"""Run in bfloat16 too: one of each family."""

FILES = {
    "clip-vit-b-32": "model.safetensors",
    "clip-vit-b-16": "pytorch_model.bin",
    "clip-vit-l-14": "model.safetensors",
    "clip-vit-h-14": "model.safetensors.index.json",
    "cn-clip-vit-b-16": "pytorch_model.bin",
    "cn-clip-vit-l-14": "pytorch_model.bin",
    "cn-clip-vit-h-14": "model.safetensors",
    "siglip2-vit-b-16": "model.safetensors",
    "siglip2-vit-l-16": "model.safetensors",
    "siglip2-so400m-patch16-384": "model.safetensors.index.json",
    "blip2_transformers": "model.safetensors.index.json",
}
STORED = {"clip-vit-l-14": "f16", "cn-clip-vit-l-14": "f16", "clip-vit-h-14": "bf16"}
"""Files that hold other than float32."""

PLACES = {"clip": 77, "chinese_clip": 52, "siglip": 64, "blip-2": 64}
LENGTHS = (3, 9, 30, 52)


def to_bf16(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (array.view(np.uint32) >> 16).astype(np.uint16)


def stored(model: str, *, layers: int) -> Arrays:
    """The row's tensors as its file holds them, with the extra ones that older files have."""
    arrays = small_arrays(model, "transformers", layers=layers)
    match STORED.get(model):
        case "f16":
            arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
        case "bf16":
            arrays = {name: to_bf16(array) for name, array in arrays.items()}
    if model_type(model) in ("clip", "chinese_clip"):
        for tower, places in (("vision_model", 5), ("text_model", 77)):
            arrays[f"{tower}.embeddings.position_ids"] = np.arange(places)[None]
    return arrays


@pytest.mark.parametrize("model", FILES)
def test_vectors_are_those_of_transformers(model: str, tmp_path: Path, note: Note) -> None:
    kind = model_type(model)
    layers = 3 if kind == "blip-2" else 2
    arrays, config = stored(model, layers=layers), strip(small_config(model, layers=layers))
    (tmp_path / "config.json").write_text(json.dumps(config))
    paths = write_checkpoint(tmp_path / FILES[model], arrays)
    towers = read_towers(paths, json.loads((tmp_path / "config.json").read_text()))
    oracle = Oracle(config, arrays)
    images, words = pictures(model, 4), texts(model, *LENGTHS)
    seen = oracle.images(images)
    read = oracle.texts(words, PLACES[kind], towers.plan("text").transform["pad_id"])
    assert np.linalg.matrix_rank(seen) > 1
    for precision, bound in (BOUNDS | (BF16 if model in ROUNDED else {})).items():
        graphs = towers.compile(tmp_path, precision)
        least = min(cosine(graphs["image"](images), seen), cosine(graphs["text"](words), read))
        note(model, "transformers", oracle_name(STORED.get(model, "f32")), precision, least)
        assert least >= bound, precision
