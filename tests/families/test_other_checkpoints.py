"""Checkpoints that are in no row: written by the upstream libraries, opened by hub id or by folder.

All sizes come from the configuration. Weights are random, and the vectors are held to the library
that wrote the files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from multimodal_embedding_serving.checkpoints import read_weights
from multimodal_embedding_serving.checkpoints.layouts import detect, rename
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.conversion.blueprint import Blueprint, read_blueprint
from multimodal_embedding_serving.conversion.resolve import resolve_model
from multimodal_embedding_serving.conversion.store import load_bundle
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Row
from tests.families.forms import Tested
from tests.hub_standin import HubStandIn
from tests.lazy import lazy
from tests.parity.oracles import Oracle
from tests.parity.small import GRID, Arrays, draw, small_arrays, small_config
from tests.parity.test_golden import open_clip_config
from tests.parity.towers import compile_plan, cosine, write_checkpoint
from tests.repositories import GEMMA_ENTRIES, QWEN_ENTRIES, write_vocabulary
from tests.small_clip import repository

torch = lazy("torch")
transformers = lazy("transformers")

MIN_COSINE = 0.99999
WORDS = ("a photo of a cat", "一只猫睡在沙发上", "x")
VISION = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2}
TEXT = {"hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 2}


@dataclass(frozen=True)
class Other:
    """A checkpoint beside the catalog."""

    family: str
    side: int | None
    dimension: int
    write: Callable[[Path], None]


def save(folder: Path, model: Any, **how: Any) -> None:
    """The upstream library writes it, its weights of the size that trained ones have."""
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            spread = 0.2 if weight.ndim < 2 else 1.2 * weight[0].numel() ** -0.5
            centre = 1.0 if weight.ndim == 1 and bool((weight == 1).all()) else 0.0
            weight.copy_(torch.randn_like(weight) * spread + centre)
    model.save_pretrained(folder, **how)


def siglip(side: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        vision = {**VISION, "num_attention_heads": 4, "image_size": side, "patch_size": 16}
        text = {**VISION, "num_attention_heads": 6, "vocab_size": GEMMA_ENTRIES}
        config = {"vision_config": vision, "text_config": {**text, "projection_size": 48}}
        save(folder, transformers.SiglipModel(transformers.SiglipConfig.from_dict(config)))
        write_vocabulary(folder, "siglip2")

    return write


def chinese_clip(folder: Path) -> None:
    vision = {**VISION, "num_attention_heads": 4, "image_size": 42, "patch_size": 14}
    text = {**TEXT, "num_attention_heads": 2, "vocab_size": 300, "max_position_embeddings": 60}
    config = {"vision_config": vision, "text_config": text, "projection_dim": 40}
    model = transformers.ChineseCLIPModel(transformers.ChineseCLIPConfig.from_dict(config))
    save(folder, model)
    write_vocabulary(folder, "cn-clip")


def blip2(folder: Path) -> None:
    vision = {**VISION, "num_attention_heads": 4, "image_size": 42, "patch_size": 14}
    qformer = {**TEXT, "num_attention_heads": 2, "vocab_size": 300, "max_position_embeddings": 60}
    qformer |= {"encoder_hidden_size": 48, "use_qformer_text_input": True}
    config = {"vision_config": vision, "qformer_config": qformer, "image_text_hidden_size": 24}
    whole = transformers.Blip2Config.from_dict({**config, "num_query_tokens": 8})
    save(folder, transformers.Blip2ForImageTextRetrieval(whole), max_shard_size="200KB")
    assert (folder / "model.safetensors.index.json").is_file()
    write_vocabulary(folder, "blip2")


def qwen3(folder: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 80, "intermediate_size": 112, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16}
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    config = {**sizes, **heads, **rope, "vocab_size": QWEN_ENTRIES, "tie_word_embeddings": False}
    model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config.from_dict(config))
    save(folder, model.bfloat16(), max_shard_size="100KB")
    write_vocabulary(folder, "qwen3")


G_14 = {"layers": 2, "width": 176, "head_width": 88, "mlp_ratio": 4.3637, "patch_size": 14}
"""OpenCLIP's ViT-g-14 an eighth as wide but with heads as wide: none of CLIP's own numbers fit."""


def open_clip_g(folder: Path) -> None:
    arrays = small_arrays("clip-vit-h-14", "open_clip")
    old, inner = 1280 // 8, int(176 * 4.3637)
    for name, array in arrays.items():
        if name.startswith("visual."):
            sizes = {old: 176, 3 * old: 3 * 176, 4 * old: inner}
            shape = [sizes.get(size, size) for size in map(int, array.shape)]
            arrays[name] = draw(name, tuple(shape), 0)
    config = open_clip_config("clip-vit-h-14")
    config["model_cfg"]["vision_cfg"] = {**G_14, "image_size": GRID * 14}
    write_checkpoint(folder / "open_clip_pytorch_model.bin", arrays)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    write_vocabulary(folder, "clip")


OTHERS = {
    "SigLIP2 at another resolution": Other("SigLIP", 80, 48, siglip(80)),
    "SigLIP2 for persons seen again": Other("SigLIP", 32, 48, siglip(32)),
    "Chinese-CLIP at 336 pixels": Other("CN-CLIP", 42, 40, chinese_clip),
    "OpenCLIP's g/14": Other("CLIP", 28, 128, open_clip_g),
    "a Qwen3 that was trained on": Other("QwenText", None, 80, qwen3),
    "BLIP-2 ITM at 364 pixels": Other("Blip2", 42, 24, blip2),
}
FROM_HUB = ("SigLIP2 for persons seen again", "OpenCLIP's g/14", "a Qwen3 that was trained on")


def upstream(folder: Path, family: str) -> Any:
    """The library's model of what lies in the folder."""
    if family == "QwenText":
        return transformers.Qwen3Model.from_pretrained(folder, dtype=torch.float32)
    if family == "CLIP":
        weights = read_weights([folder / "open_clip_pytorch_model.bin"])
        layout = detect(weights)
        assert layout is not None
        config = small_config("clip-vit-h-14")
        config["vision_config"] |= {"hidden_size": 176, "intermediate_size": int(176 * 4.3637)}
        config["vision_config"] |= {"num_attention_heads": 2}
        named = {name: tensor.float32() for name, tensor in rename(weights, layout).items()}
        return Oracle(config, named)
    arrays: Arrays = {}
    for path in folder.glob("*.safetensors"):
        arrays |= load_file(path)
    return Oracle(json.loads((folder / "config.json").read_text()), arrays)


def expected(model: Any, plan: Any, rows: list[Row]) -> Any:
    if plan.modality == "image":
        return model.images(rows)
    if isinstance(model, Oracle):
        return model.texts(rows, max(map(len, rows)), plan.transform["pad_id"])
    with torch.inference_mode():
        asked = [model(torch.tensor(row[None]).long()).last_hidden_state[0, -1] for row in rows]
    return torch.stack(asked).numpy()


def rows_for(blueprint: Blueprint, plan: Any) -> list[Row]:
    if plan.modality == "image":
        side = plan.inputs["pixels"]
        noise = np.random.RandomState(3).randint(0, 256, (3, side, side, 3))
        return list(noise.astype(np.uint8))
    assert blueprint.tokenizer is not None
    return [
        each.row for each in TextTransform(blueprint.tokenizer, plan.transform).prepare_many(WORDS)
    ]


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_beside_the_catalog_has_its_librarys_vectors(
    name: str, hub: HubStandIn, access: HubAccess, tmp_path: Path, tested: Tested
) -> None:
    other, folder = OTHERS[name], tmp_path / "checkpoint"
    folder.mkdir()
    other.write(folder)
    model = str(folder)
    if name in FROM_HUB:
        hub.add("org/tuned", repository(folder))
        model = "hf:org/tuned"
    wanted = resolve_model(Settings(model=model, models_dir=tmp_path / "models"))
    assert wanted.spec is None
    blueprint = read_blueprint(wanted, access=access)
    assert blueprint.family == other.family
    assert (blueprint.source["repo"] == "org/tuned") == (name in FROM_HUB)
    oracle = upstream(folder, other.family)
    sides: Mapping[str, int | None] = {}
    for plan in blueprint.plans:
        sides = {**sides, **plan.inputs}
        assert plan.dimension == other.dimension
        rows = rows_for(blueprint, plan)
        found = compile_plan(plan, tmp_path / f"{plan.modality}-f32.xml")(rows)
        least = cosine(found, expected(oracle, plan, rows))
        assert least >= MIN_COSINE, plan.modality
        tested(name, least)
    assert sides.get("pixels") == other.side


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_what_is_not_recognized_is_told_what_is(
    where: str, hub: HubStandIn, access: HubAccess, tmp_path: Path, tested: Tested
) -> None:
    folder = tmp_path / "resnet"
    folder.mkdir()
    save_file({"conv1.weight": np.zeros((8, 3, 7, 7), np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"model_type": "resnet"}')
    write_vocabulary(folder, "clip")
    hub.add("org/resnet", repository(folder))
    model = str(folder) if where == "folder" else "hf:org/resnet"
    with pytest.raises(CheckpointError) as caught:
        load_bundle(Settings(model=model, models_dir=tmp_path / "models"), access=access)
    told = caught.value.message
    known = "clip chinese_clip siglip blip-2 mobileclip qwen3 transformers open_clip cn_clip apple"
    for word in ("model.safetensors", "'resnet'", "not recognized", *known.split()):
        assert word in told
    tested("a ResNet of transformers", told)


@pytest.mark.parametrize("kind", ["clip_vision_model", "qwen2", "blip-2"])
def test_tensors_of_one_architecture_under_anothers_name_are_refused(
    kind: str, tmp_path: Path
) -> None:
    siglip(32)(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    with pytest.raises(CheckpointError, match=f"those of 'siglip', but config.json says '{kind}'"):
        read_blueprint(resolve_model(Settings(model=str(tmp_path), models_dir=tmp_path)))
