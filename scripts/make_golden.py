"""Create the golden vectors of tests/golden/parity, from libraries that the tests can't install.

open_clip, timm and cn_clip need torchvision, which breaks transformers where it has no CPU build.
So their vectors are created once, in an environment of their own:

    python3.11 -m venv oracle
    oracle/bin/pip install torch==2.13.0 numpy ftfy regex tqdm huggingface_hub safetensors pyyaml \
        transformers six lmdb
    oracle/bin/pip install --no-deps torchvision==0.28.0 open_clip_torch==3.3.0 timm==1.0.31 \
        cn_clip==1.6.0
    oracle/bin/python -m scripts.make_golden

Run from the repository's root. The checkpoints are those of tests/parity/small.py, which follow
from a seed, so that only the vectors are kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.parity.small import (
    ENTRIES,
    LAYERS,
    SCALE,
    image_side,
    pictures,
    small_arrays,
    small_config,
    texts,
)

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "parity"
LENGTHS = (3, 9, 30, 52)
CLIP_PIXELS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
SIGLIP_PIXELS = ((0.5,) * 3, (0.5,) * 3)

CLIP_ROWS = ("clip-vit-b-32", "clip-vit-b-16", "clip-vit-l-14", "clip-vit-h-14")
CN_CLIP_ROWS = ("cn-clip-vit-b-16", "cn-clip-vit-l-14", "cn-clip-vit-h-14")
SIGLIP_ROWS = {
    "siglip2-vit-b-16": ("ViT-B-16-SigLIP2", "vit_base_patch16_siglip_224"),
    "siglip2-vit-l-16": ("ViT-L-16-SigLIP2-256", "vit_large_patch16_siglip_256"),
    "siglip2-so400m-patch16-384": (
        "ViT-SO400M-16-SigLIP2-384",
        "vit_so400m_patch16_siglip_384",
    ),
}


def declare_torchvision(torch: Any) -> Any:
    """Declare torchvision's compiled operations: they need not exist, but must be registered."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def load(torch: Any, module: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Load every tensor of the checkpoint into the model; raises if the names differ."""
    module.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    return module.float().eval()


def make_clip(torch: Any, open_clip: Any, model: str) -> Any:
    config = small_config(model)
    vision, text = config["vision_config"], config["text_config"]
    return open_clip.model.CLIP(
        embed_dim=config["projection_dim"],
        vision_cfg={
            "image_size": image_side(model),
            "layers": LAYERS,
            "width": vision["hidden_size"],
            "head_width": vision["hidden_size"] // vision["num_attention_heads"],
            "patch_size": vision["patch_size"],
        },
        text_cfg={
            "vocab_size": ENTRIES,
            "width": text["hidden_size"],
            "heads": text["num_attention_heads"],
            "layers": LAYERS,
        },
        quick_gelu=vision["hidden_act"] == "quick_gelu",
    )


def make_siglip(torch: Any, open_clip: Any, model: str) -> Any:
    """OpenCLIP's own configuration with smaller sizes; likewise timm's tower, which it names."""
    name, timm_name = SIGLIP_ROWS[model]
    config = small_config(model)["vision_config"]
    full = open_clip.get_model_config(name)
    if full["vision_cfg"]["timm_model_name"] != timm_name:
        raise SystemExit(f"{name} does not use {timm_name} in this version of open_clip")
    text = full["text_cfg"] | {"vocab_size": ENTRIES, "layers": LAYERS}
    text["width"] //= SCALE
    timm = import_module("open_clip.timm_model").timm
    create = timm.create_model
    timm.create_model = lambda *names, **settings: create(
        *names,
        **settings,
        embed_dim=config["hidden_size"],
        depth=LAYERS,
        img_size=image_side(model),
    )
    try:
        return open_clip.model.CustomTextCLIP(
            embed_dim=full["embed_dim"] // SCALE,
            vision_cfg=full["vision_cfg"],
            text_cfg=text,
            init_logit_bias=full["init_logit_bias"],
        )
    finally:
        timm.create_model = create


def make_cn_clip(torch: Any, open_clip: Any, model: str) -> Any:
    config = small_config(model)
    vision, text = config["vision_config"], config["text_config"]
    return import_module("cn_clip.clip.model").CLIP(
        embed_dim=config["projection_dim"],
        image_resolution=image_side(model),
        vision_layers=LAYERS,
        vision_width=vision["hidden_size"],
        vision_patch_size=vision["patch_size"],
        vision_head_width=vision["hidden_size"] // vision["num_attention_heads"],
        vocab_size=ENTRIES,
        text_attention_probs_dropout_prob=0.1,
        text_hidden_act="gelu",
        text_hidden_dropout_prob=0.1,
        text_hidden_size=text["hidden_size"],
        text_initializer_range=0.02,
        text_intermediate_size=text["intermediate_size"],
        text_max_position_embeddings=text["max_position_embeddings"],
        text_num_attention_heads=text["num_attention_heads"],
        text_num_hidden_layers=LAYERS,
        text_type_vocab_size=2,
    )


def padded(model: str, places: int) -> NDArray[np.int64]:
    """The texts at the model's full length, padded with 0 as these libraries do."""
    ids = np.zeros((len(LENGTHS), places), np.int64)
    for place, row in enumerate(texts(model, *LENGTHS)):
        ids[place, : len(row)] = row
    return ids


Maker = Callable[[Any, Any, str], Any]
JOBS: Mapping[str, tuple[Maker, str, tuple[str, ...], int, Any]] = {
    "open_clip": (make_clip, "open_clip", CLIP_ROWS, 77, CLIP_PIXELS),
    "siglip": (make_siglip, "open_clip", tuple(SIGLIP_ROWS), 64, SIGLIP_PIXELS),
    "cn_clip": (make_cn_clip, "cn_clip", CN_CLIP_ROWS, 52, CLIP_PIXELS),
}
"""Maker, layout, rows, text places, mean and standard deviation of the pixels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", type=Path, nargs="?", default=GOLDEN)
    folder = parser.parse_args().folder
    torch = import_module("torch")
    library = declare_torchvision(torch)
    open_clip = import_module("open_clip")
    libraries = ("torch", "open_clip_torch", "timm", "cn_clip", "numpy")
    versions = {name: version(name) for name in libraries}
    for make, layout, models, places, (mean, std) in JOBS.values():
        for model in models:
            oracle = load(torch, make(torch, open_clip, model), small_arrays(model, layout))
            pixels = (np.stack(pictures(model, 4)) / 255.0 - np.array(mean)) / np.array(std)
            values = torch.tensor(pixels.transpose(0, 3, 1, 2), dtype=torch.float32)
            with torch.no_grad():
                images = oracle.encode_image(values).numpy()
                text_vectors = oracle.encode_text(torch.tensor(padded(model, places))).numpy()
            golden = {"versions": versions, "lengths": LENGTHS}
            golden |= {"images": rounded(images), "texts": rounded(text_vectors)}
            (folder / f"{model}.{layout}.json").write_text(json.dumps(golden) + "\n")
            print(model, layout, images.shape, text_vectors.shape)
    del library


def rounded(vectors: NDArray[np.float32]) -> list[list[float]]:
    """Seven digits: the precision of float32."""
    return [[float(f"{value:.7g}") for value in row] for row in vectors]


if __name__ == "__main__":
    main()
