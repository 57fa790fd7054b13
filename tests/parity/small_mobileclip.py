"""Small random MobileCLIP checkpoints under the true names of real ones.

Names come from `tests/golden/layouts`; each stack keeps two blocks (S0's text tower all six) and a
quarter of its width (S2: half, so that squeeze-and-excitation keeps its ratios). Values follow from
a seed alone, so that vectors made from them once, elsewhere, are golden. Only numpy is needed.
"""

from __future__ import annotations

import re
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.parity.small import ENTRIES, Arrays, Shape, draw, read_layout

BLOCKS = 2
PLACES = 77
MCI_SIDE = 64
VIT_SIDE, VIT_GRID = 48, 3
LENGTHS = (3, 20, 77)

_BLOCK = re.compile(r"(?:network\.[0247]|blocks|transformer)\.(\d+)\.")
_TOKENS = ("token_embedding", "embedding_layer")
_QUIET = re.compile(r"cls_token|(?<!positional_embedding\.)pos_embed$|(patch_emb|backbone)\.2\.")
"""What B's image tower starts from: small, so that the eps of its first LayerNorm counts."""


def scale_of(model: str) -> int:
    return 2 if model == "mobileclip_s2" else 4


def side_of(model: str) -> int:
    return VIT_SIDE if model.startswith("mobileclip_b") else MCI_SIDE


def small_mobileclip(model: str, layout: str) -> Arrays:
    """float32 arrays, in the order of the file."""
    arrays: Arrays = {}
    for name, shape in read_layout(model, layout):
        small = _shrink(name, shape, model)
        if small is not None:
            arrays[name] = _draw(name, small, calm=0.85 if model == "mobileclip_s2" else 0.9)
    return arrays


def _shrink(name: str, shape: Shape, model: str) -> Shape | None:
    block = _BLOCK.search(name)
    whole = model == "mobileclip_s0" and name.startswith("text_encoder.")
    if block and int(block[1]) >= BLOCKS and not whole:
        return None
    scale = scale_of(model)
    if name.startswith(tuple(f"text{k}.{t}" for k in ("", "_encoder") for t in _TOKENS)):
        return (ENTRIES, shape[1] // scale)
    grid = VIT_GRID * VIT_GRID
    return tuple(
        grid if size == 196 else size // scale if size >= 32 and size != PLACES else size
        for size in shape
    )


def _draw(name: str, shape: Shape, calm: float) -> NDArray[Any]:
    """`calm` bounds the sums of a convolutional tower, which BatchNorm alone does not."""
    if name.endswith("num_batches_tracked"):
        return np.array(1000)
    if name.endswith("running_var"):
        rng = np.random.RandomState(zlib.crc32(name.encode()))
        return np.asarray(rng.uniform(0.3, 2, shape), np.float32)
    if name.endswith("head.fc.bias"):
        return np.zeros(shape, np.float32)  # timm's head has one, Apple's has none
    values = draw(name, shape, 0)
    if "layer_scale" in name:
        values = np.asarray(0.3 * values, np.float32)
    elif len(shape) == 4:
        values = np.asarray(calm * values, np.float32)
    if name.startswith(("image_encoder", "visual")) and _QUIET.search(name):
        values = np.asarray(0.002 * values, np.float32)
    return values


def small_pictures(model: str) -> list[NDArray[np.uint8]]:
    """uint8 [side, side, 3]: noise, a ramp, and two of one colour in parts."""
    side = side_of(model)
    rng = np.random.RandomState(17)
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    plain = np.full((side, side, 3), (200, 30, 90), np.uint8)
    halves = plain.copy()
    halves[: side // 2] = (10, 240, 120)
    grey = np.repeat(np.broadcast_to(ramp[:, None], (side, side))[:, :, None], 3, 2)
    return [rng.randint(0, 256, (side, side, 3)).astype(np.uint8), grey, plain, halves]


def small_texts() -> list[NDArray[np.int32]]:
    """int32 [77]: words, EOT (the largest id), padding with 0."""
    rng = np.random.RandomState(19)
    rows = []
    for length in LENGTHS:
        row = np.zeros(PLACES, np.int32)
        row[: length - 1] = rng.randint(1, ENTRIES - 1, length - 1)
        row[length - 1] = ENTRIES - 1
        rows.append(row)
    return rows
