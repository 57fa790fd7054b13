"""The layouts of open_clip, timm and cn_clip, against vectors that those libraries made.

They can't be installed beside transformers; scripts/make_golden.py says how it was done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_embedding_serving.catalog import resolve
from multimodal_embedding_serving.checkpoints.configs import describe, translate_open_clip
from tests.parity.conftest import Note
from tests.parity.small import model_type, pictures, small_arrays, small_config, texts
from tests.parity.test_transformers import BOUNDS
from tests.parity.towers import Towers, cosine, read_towers, write_checkpoint

GOLDEN = Path(__file__).parent.parent / "golden" / "parity"
FILES = {
    "clip-vit-b-32": "open_clip_model.safetensors",
    "clip-vit-b-16": "open_clip_pytorch_model.bin",
    "clip-vit-l-14": "open_clip_pytorch_model.bin",
    "clip-vit-h-14": "open_clip_pytorch_model.bin",
    "cn-clip-vit-b-16": "clip_cn_vit-b-16.pt",
    "cn-clip-vit-l-14": "clip_cn_vit-l-14.pt",
    "cn-clip-vit-h-14": "clip_cn_vit-h-14.pt",
    "siglip2-vit-b-16": "open_clip_model.safetensors",
    "siglip2-vit-l-16": "open_clip_model.safetensors",
    "siglip2-so400m-patch16-384": "open_clip_pytorch_model.bin",
}
SIZES = (
    "hidden_size intermediate_size num_hidden_layers image_size vocab_size max_position_embeddings"
)


def layout_of(model: str) -> str:
    return "cn_clip" if model_type(model) == "chinese_clip" else "open_clip"


def golden(model: str) -> dict[str, Any]:
    path = GOLDEN / f"{model}.{layout_of(model)}.json"
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def open_clip_config(model: str) -> dict[str, Any]:
    """open_clip_config.json of the small CLIP model: what equals OpenCLIP's default left out."""
    config = small_config(model)
    vision, text = config["vision_config"], config["text_config"]
    cfg: dict[str, Any] = {
        "embed_dim": config["projection_dim"],
        "vision_cfg": {
            "image_size": vision["image_size"],
            "layers": vision["num_hidden_layers"],
            "width": vision["hidden_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "patch_size": vision["patch_size"],
        },
        "text_cfg": {
            "vocab_size": text["vocab_size"],
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": text["num_hidden_layers"],
        },
    }
    if vision["hidden_act"] == "quick_gelu":
        cfg["quick_gelu"] = True
    return {"model_cfg": cfg, "preprocess_cfg": {"mean": [0.48145466, 0.4578275, 0.40821073]}}


def told_by_the_row(model: str) -> dict[str, Any]:
    """What the catalog's architecture tells, its sizes made small."""
    full = describe(resolve(model).architecture, model_type(model))
    assert full is not None
    small = small_config(model)
    for section in ("vision_config", "text_config"):
        full[section] |= {key: small[section][key] for key in SIZES.split() if key in full[section]}
    return full


def open_small(model: str, folder: Path) -> Towers:
    arrays: Mapping[str, NDArray[Any]] = small_arrays(model, layout_of(model))
    paths = write_checkpoint(folder / FILES[model], dict(arrays))
    clip = model_type(model) == "clip"
    return read_towers(paths, open_clip_config(model) if clip else told_by_the_row(model))


@pytest.mark.parametrize("model", FILES)
def test_vectors_are_those_of_the_library_that_wrote_the_file(
    model: str, tmp_path: Path, note: Note
) -> None:
    expected = golden(model)
    images, words = pictures(model, 4), texts(model, *expected["lengths"])
    towers = open_small(model, tmp_path)
    library = "cn_clip" if model_type(model) == "chinese_clip" else "open_clip_torch"
    oracle = f"{library} {expected['versions'][library]}"
    for precision in ("f32", "f16"):  # integers are the same in any layout
        bound, graphs = BOUNDS[precision], towers.compile(tmp_path, precision)
        least = min(
            cosine(graphs["image"](images), np.array(expected["images"])),
            cosine(graphs["text"](words), np.array(expected["texts"])),
        )
        note(model, layout_of(model), oracle, precision, least)
        assert least >= bound, precision


@pytest.mark.parametrize("model", ["siglip2-vit-b-16", "siglip2-vit-l-16"])
def test_timms_exact_gelu_is_told_from_the_tanh_one(model: str, tmp_path: Path) -> None:
    """They are near each other, so that distances tell more than cosines."""
    expected = np.array(golden(model)["images"])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    towers = open_small(model, tmp_path)
    found = towers.compile(tmp_path)["image"](pictures(model, 4))
    assert np.linalg.norm(found - expected, axis=1).max() < 1e-5

    config = told_by_the_row(model)
    config["vision_config"]["hidden_act"] = "gelu_pytorch_tanh"
    towers = read_towers([tmp_path / FILES[model]], config)
    found = towers.compile(tmp_path)["image"](pictures(model, 4))
    assert np.linalg.norm(found - expected, axis=1).max() > 5e-5


def test_the_timm_towers_with_tanh_are_known_by_name() -> None:
    def activation(name: str) -> str:
        vision = {"timm_model_name": name, "timm_pool": "map", "timm_proj": "none"}
        full = translate_open_clip({"vision_cfg": vision, "text_cfg": {}}, "siglip")
        return str(full["vision_config"]["hidden_act"])

    exact = "base_patch16_siglip_224 base_patch16_siglip_512 large_patch16_siglip_256"
    exact += " large_patch16_siglip_384 so400m_patch14_siglip_384"
    tanh = "so400m_patch16_siglip_384 large_patch16_siglip_512 base_patch32_siglip_256"
    tanh += " giantopt_patch16_siglip_256"
    assert {activation(f"vit_{name}") for name in exact.split()} == {"gelu"}
    assert {activation(f"vit_{name}") for name in tanh.split()} == {"gelu_pytorch_tanh"}
