"""Create the golden vectors of tests/golden/mobileclip, from open_clip and timm.

Both need torchvision, which breaks transformers where it has no CPU build. So the vectors are
created once, in an environment of their own:

    python3.11 -m venv oracle
    oracle/bin/pip install torch==2.13.0 numpy ftfy regex tqdm huggingface_hub safetensors pyyaml
    oracle/bin/pip install --no-deps torchvision==0.28.0 open_clip_torch==3.3.0 timm==1.0.31
    oracle/bin/python -m scripts.make_golden_mobileclip

Run from the repository's root. The checkpoints are those of tests/parity/small_mobileclip.py, which
follow from a seed, so that only the vectors are kept.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from scripts.make_golden import declare_torchvision
from tests.parity.small import ENTRIES, Arrays
from tests.parity.small_mobileclip import (
    BLOCKS,
    PLACES,
    VIT_SIDE,
    scale_of,
    small_mobileclip,
    small_pictures,
    small_texts,
)

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "mobileclip"
IMAGES = {
    "mobileclip_s1": "fastvit_mci1",
    "mobileclip_s2": "fastvit_mci2",
    "mobileclip_b": "vit_base_mci_224",
}
WIDTHS = {"mobileclip_s1": (64, 128, 256, 512), "mobileclip_s2": (80, 160, 320, 640)}
TEXT_WIDTH, TEXT_HEAD = 512, 64


def make_image(model: str) -> Any:
    """timm's tower of the row, with fewer and narrower blocks."""
    scale, width = scale_of(model), TEXT_WIDTH // scale_of(model)
    if model in WIDTHS:
        return import_module("timm").create_model(
            IMAGES[model],
            layers=(BLOCKS,) * 4,
            embed_dims=tuple(each // scale for each in WIDTHS[model]),
            num_classes=width,
        )
    hybrid = import_module("timm.models.vision_transformer_hybrid")
    gelu = import_module("torch.nn").GELU
    wide = 768 // scale
    stem = hybrid.ConvStem(
        channels=(wide // 4, wide // 4, wide),
        stride=(4, 2, 2),
        kernel_size=(4, 2, 2),
        padding=0,
        act_layer=gelu,
    )
    return hybrid._create_vision_transformer_hybrid(
        IMAGES[model],
        backbone=stem,
        embed_args={"proj": False},
        img_size=VIT_SIDE,
        embed_dim=wide,
        depth=BLOCKS,
        num_heads=wide // TEXT_HEAD,
        no_embed_class=True,
        num_classes=width,
    )


def make_text(model: str) -> Any:
    width = TEXT_WIDTH // scale_of(model)
    return import_module("open_clip.transformer").TextTransformer(
        context_length=PLACES,
        vocab_size=ENTRIES,
        width=width,
        heads=width // TEXT_HEAD,
        layers=BLOCKS,
        output_dim=width,
        no_causal_mask=model != "mobileclip_b",
    )


def load(torch: Any, module: Any, arrays: Arrays, prefix: str) -> Any:
    """Load every tensor of the tower from the checkpoint; raises if the names differ."""
    state = {
        name.removeprefix(prefix): torch.tensor(array)
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    module.load_state_dict(state)
    return module.float().eval()


def embed(torch: Any, model: str) -> dict[str, Any]:
    arrays = small_mobileclip(model, "open_clip")
    image = load(torch, make_image(model), arrays, "visual.trunk.")
    text = load(torch, make_text(model), arrays, "text.")
    pixels = torch.tensor(np.stack(small_pictures(model))).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        vectors = {
            "image": image(pixels),
            "text": text(torch.tensor(np.stack(small_texts())).long()),
        }
    unit = torch.nn.functional.normalize
    return {name: unit(rows, dim=1).double().numpy().tolist() for name, rows in vectors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=GOLDEN)
    folder = parser.parse_args().folder
    torch = import_module("torch")
    library = declare_torchvision(torch)
    versions = {name: version(name) for name in ("torch", "open_clip_torch", "timm")}
    folder.mkdir(parents=True, exist_ok=True)
    for model in IMAGES:
        vectors = embed(torch, model)
        rounded = {
            name: [[round(number, 9) for number in row] for row in rows]
            for name, rows in vectors.items()
        }
        path = folder / f"{model}.open_clip.json"
        path.write_text(json.dumps({"versions": versions} | rounded) + "\n")
        print(path.name, path.stat().st_size)
    del library


if __name__ == "__main__":
    main()
