"""The probabilities of labels, against the logits of transformers' own forward pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.inputs.items import TextItem
from multimodal_embedding_serving.types import Row
from tests.families.test_other_checkpoints import siglip
from tests.lazy import lazy
from tests.parity.oracles import CLIP_PIXELS, PIXELS
from tests.parity.small import pictures
from tests.small_clip import write_clip

torch = lazy("torch")
transformers = lazy("transformers")

LABELS = ["cat", "dog", "striped tabby", "tea", "x"]
TEMPLATE = "a photo of a {}"
MAX_DIFFERENCE = 1e-4
PLACES = {"clip": 77, "siglip": 64}


SCALARS = {"logit_scale": np.log(100.0), "logit_bias": -4.0}
"""As trained models have them: the seeds' own would hardly tell labels apart."""


def write_small_clip(folder: Path) -> None:
    write_clip(folder)


def set_scalars(path: Path) -> None:
    tensors = load_file(path)
    for name in SCALARS.keys() & tensors.keys():
        tensors[name] = np.full_like(tensors[name], SCALARS[name])
    save_file(tensors, path, {"format": "pt"})


def pads_of(models: Path) -> set[int]:
    """The padding of the text tower in the manifest below a folder of bundles."""
    (manifest,) = models.rglob("manifest.json")
    towers = json.loads(manifest.read_text("utf-8"))["towers"]
    return {
        each["transform"]["pad_id"] for each in towers.values() if "pad_id" in each["transform"]
    }


def upstream_logits(folder: Path, kind: str, pixels: list[Row], ids: list[Row], pad: int) -> Any:
    """logits_per_image of the model that transformers reads from the folder."""
    model = getattr(transformers, {"clip": "CLIPModel", "siglip": "SiglipModel"}[kind])
    model = model.from_pretrained(folder, dtype=torch.float32).eval()
    mean, std = PIXELS.get(kind, CLIP_PIXELS)
    values = (np.stack(pixels) / 255.0 - np.array(mean)) / np.array(std)
    rows = torch.full((len(ids), PLACES[kind]), pad)
    mask = torch.zeros_like(rows)
    for place, row in enumerate(ids):
        rows[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    masked = {} if kind == "siglip" else {"attention_mask": mask}
    with torch.inference_mode():
        return model(
            input_ids=rows,
            pixel_values=torch.tensor(values.transpose(0, 3, 1, 2), dtype=torch.float32),
            **masked,
        ).logits_per_image


@pytest.mark.parametrize(
    ("kind", "write"), [("clip", write_small_clip), ("siglip", siglip(32))], ids=["clip", "siglip"]
)
def test_probabilities_are_those_of_transformers(
    kind: str, write: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    write(folder)
    set_scalars(folder / "model.safetensors")
    models = tmp_path / "models"
    with Engine.open(str(folder), models_dir=models, precision="f32", model_cache=False) as engine:
        side = engine.info.image_size or 0
        images = [np.asarray(each[:side, :side]) for each in pictures("clip-vit-b-32", 4)]
        pixels = [engine.preprocess_image(each) for each in images]
        texts = [TEMPLATE.replace("{}", each) for each in LABELS]
        read = engine.towers["text"].prepare
        ids = [read(TextItem(text, "document")).row for text in texts]
        found = engine.classify(LABELS, images=images)
        with_template = engine.classify(LABELS, images=images, template=TEMPLATE)
    (pad,) = pads_of(models)
    logits = upstream_logits(folder, kind, pixels, ids, pad)
    expected = logits.sigmoid() if kind == "siglip" else logits.softmax(dim=1)
    assert found.calibrated
    assert np.abs(found.scores - expected.numpy()).max() <= MAX_DIFFERENCE
    assert np.array_equal(found.scores, with_template.scores)
    assert found.best == [LABELS[place] for place in expected.argmax(dim=1)]
    assert np.ptp(expected.numpy()) > 100 * MAX_DIFFERENCE  # the weights do tell images apart
