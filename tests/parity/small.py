"""Small random checkpoints under the true names of real ones.

Names and shapes come from `tests/golden/layouts`, dumped from models of true size; a small one
keeps two layers, an eighth of each width, 2 x 2 patches and 600 words. The values follow from the
seed alone (RandomState's streams are frozen), so that vectors made from them once, elsewhere, are
golden. Only numpy is needed.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAYOUTS = Path(__file__).parent.parent / "golden" / "layouts"
ENTRIES = 600
"""Words of a small vocabulary; the last two are CLIP's SOT and EOT."""
SCALE = 8
GRID = 2
"""Patches along each side of a small picture."""
LAYERS = 2

Arrays = dict[str, NDArray[Any]]
Shape = tuple[int, ...]

_LAYER = re.compile(r"(?:layers?|resblocks|blocks)\.(\d+)\.")
_VISION_POSITIONS = re.compile(r"(visual\.positional|vision_model.*position|pos_embed)")
_TABLE = re.compile(r"latent|probe|query_tokens|pos_embed|(?<!patch_)embedding(?!s\.LayerNorm)")


def read_layout(model: str, layout: str) -> Iterator[tuple[str, Shape]]:
    """(name, shape) of every tensor of a real checkpoint."""
    text = gzip.decompress((LAYOUTS / f"{model}.{layout}.tsv.gz").read_bytes()).decode()
    for line in text.splitlines():
        name, shape, _ = line.split("\t")
        yield name, () if shape == "scalar" else tuple(map(int, shape.split("x")))


def shrink(name: str, shape: Shape, layers: int = LAYERS) -> Shape | None:
    """The small shape of a tensor; None for one of a layer that is left out."""
    layer = _LAYER.search(name)
    if layer and int(layer[1]) >= layers:
        return None
    if _VISION_POSITIONS.search(name):
        class_token = round(shape[-2] ** 0.5) ** 2 != shape[-2]
        return (*shape[:-2], GRID * GRID + class_token, shape[-1] // SCALE)
    if "word_embeddings" in name or "token_embedding" in name:
        return (ENTRIES, shape[1] // SCALE)
    return tuple(size // SCALE if size > 77 else size for size in shape)


def small_arrays(model: str, layout: str, *, layers: int = LAYERS, seed: int = 0) -> Arrays:
    """The small checkpoint of a row of the catalog, float32, in the order of the file."""
    arrays: Arrays = {}
    for name, shape in read_layout(model, layout):
        small = shrink(name, shape, layers)
        if small is not None:
            arrays[name] = draw(name, small, seed)
    return arrays


def draw(name: str, shape: Shape, seed: int) -> NDArray[np.float32]:
    """Values of the size that trained ones have, so that no part of the model hides another."""
    rng = np.random.RandomState(zlib.crc32(f"{seed} {name}".encode()))
    values = rng.standard_normal(shape)
    if _TABLE.search(name):
        return np.asarray(0.5 * values, np.float32)
    if len(shape) < 2:
        centre = 1.0 if name.endswith("weight") else 0.0
        return np.asarray(centre + 0.2 * values, np.float32)
    return np.asarray(1.2 * values / np.sqrt(np.prod(shape[1:])), np.float32)


@dataclass(frozen=True)
class Heads:
    """What a checkpoint's shapes don't tell: attention heads and activations of both towers."""

    vision: int
    text: int
    vision_act: str
    text_act: str


CLIP = Heads(12, 8, "gelu", "gelu")
ROWS: dict[str, Heads] = {
    "clip-vit-b-32": CLIP,
    "clip-vit-b-16": Heads(12, 8, "quick_gelu", "quick_gelu"),
    "clip-vit-l-14": Heads(16, 12, "gelu", "gelu"),
    "clip-vit-h-14": Heads(16, 16, "gelu", "gelu"),
    "cn-clip-vit-b-16": Heads(12, 12, "quick_gelu", "gelu"),
    "cn-clip-vit-l-14": Heads(16, 12, "quick_gelu", "gelu"),
    "cn-clip-vit-h-14": Heads(16, 16, "quick_gelu", "gelu"),
    "siglip2-vit-b-16": Heads(12, 12, "gelu_pytorch_tanh", "gelu_pytorch_tanh"),
    "siglip2-vit-l-16": Heads(16, 16, "gelu_pytorch_tanh", "gelu_pytorch_tanh"),
    "siglip2-so400m-patch16-384": Heads(16, 16, "gelu_pytorch_tanh", "gelu_pytorch_tanh"),
    "blip2_transformers": Heads(16, 12, "gelu", "gelu"),
}

MODEL_TYPES = {"clip": "clip", "cn-": "chinese_clip", "sig": "siglip", "bli": "blip-2"}
PATCHES = {"b-32": 32, "b-16": 16, "l-16": 16, "16-384": 16}


def model_type(model: str) -> str:
    return next(kind for start, kind in MODEL_TYPES.items() if model.startswith(start))


def image_side(model: str) -> int:
    """Pixels along a side of a small model's pictures."""
    patch = next((patch for end, patch in PATCHES.items() if model.endswith(end)), 14)
    return GRID * patch


def small_config(model: str, *, layers: int = LAYERS) -> dict[str, Any]:
    """config.json of the small checkpoint, with nothing left out."""
    kind, heads = model_type(model), ROWS[model]
    shapes = {name: shrink(name, shape) for name, shape in read_layout(model, "transformers")}
    vision = _section(shapes, "vision_model.encoder.layers.0.mlp.fc1.weight", layers)
    vision |= {"num_attention_heads": heads.vision, "hidden_act": heads.vision_act}
    side = image_side(model)
    vision |= {"image_size": side, "patch_size": side // GRID}
    inner = {
        "clip": "text_model.encoder.layers.0.mlp.fc1.weight",
        "siglip": "text_model.encoder.layers.0.mlp.fc1.weight",
        "chinese_clip": "text_model.encoder.layer.0.intermediate.dense.weight",
        "blip-2": "qformer.encoder.layer.0.intermediate.dense.weight",
    }[kind]
    text = _section(shapes, inner, layers)
    text |= {"num_attention_heads": heads.text, "hidden_act": heads.text_act}
    text |= {"vocab_size": ENTRIES}
    if kind == "clip":
        text |= {"eos_token_id": ENTRIES - 1, "max_position_embeddings": 77}
    if kind == "siglip":
        text |= {"max_position_embeddings": 64}
    if kind in ("chinese_clip", "blip-2"):
        text |= {"max_position_embeddings": 512 // SCALE}
    if kind == "blip-2":
        text |= {"encoder_hidden_size": vision["hidden_size"], "use_qformer_text_input": True}
        whole: dict[str, Any] = {"vision_config": vision, "qformer_config": text}
        return {"model_type": kind, "image_text_hidden_size": 256 // SCALE} | whole
    dimension = shapes.get("text_projection.weight") or (0,)
    return {
        "model_type": kind,
        "projection_dim": dimension[0],
        "vision_config": vision,
        "text_config": text,
    }


def _section(shapes: dict[str, Shape | None], name: str, layers: int) -> dict[str, Any]:
    shape = shapes[name]
    assert shape is not None
    inner, width = shape
    return {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}


def texts(model: str, *lengths: int, seed: int = 0) -> list[NDArray[np.int32]]:
    """Token ids as the model's tokenizer gives them, of these lengths, special tokens included."""
    rng = np.random.RandomState(seed)
    rows = [rng.randint(5, ENTRIES - 5, length).astype(np.int32) for length in lengths]
    starts = {"clip": ENTRIES - 2, "chinese_clip": 1, "blip-2": 1}
    ends = {"clip": ENTRIES - 1, "chinese_clip": 2, "blip-2": 2, "siglip": 1}
    kind = model_type(model)
    for row in rows:
        if kind in starts:
            row[0] = starts[kind]
        row[-1] = ends[kind]
    if kind != "siglip":
        return rows
    padded = np.zeros((len(rows), 64), np.int32)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
    return list(padded)


def pictures(model: str, count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Random uint8 [side, side, 3], each with a tint of its own."""
    rng, side = np.random.RandomState(seed), image_side(model)
    noise = rng.randint(0, 256, (count, side, side, 3))
    tint = rng.randint(0, 256, (count, 1, 1, 3))
    return list(((noise + tint) // 2).astype(np.uint8))
