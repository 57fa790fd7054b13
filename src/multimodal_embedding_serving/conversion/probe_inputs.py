"""The inputs of the accuracy check: texts of several languages and lengths, synthetic images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.transforms.image import ImageTransform
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Modality, Row, Vectors

PROBE_TEXTS = (
    "a photo of a cat",
    "x",
    "error 0x80070057: the parameter is incorrect",
    "Ein roter Bus hält vor dem alten Rathaus.",
    "一只猫坐在窗台上看雨",
    "Кошка спит на подоконнике.",
    "قطة تجلس على النافذة",
    "A long description: " + "the quick brown fox jumps over the lazy dog near the river " * 12,
)
IMAGE_SHAPES = ((224, 224), (240, 320), (300, 97))
"""(height, width) of the synthetic images; one more is noise."""

MAX_SHORT_LENGTH = 40
"""Tokens of the texts that share one call: OpenVINO prepares for each new batch length."""


def probe_images() -> list[Image.Image]:
    """Four synthetic RGB images of several shapes: waves, discs, ramps, noise."""
    rng = np.random.default_rng(20260101)
    images: list[NDArray[np.uint8]] = []
    for place, (height, width) in enumerate(IMAGE_SHAPES):
        y, x = np.mgrid[0:height, 0:width] / max(height, width)
        waves = np.sin((place + 1) * 7 * x + place) * np.cos((place + 2) * 5 * y)
        disc = ((x - 0.4) ** 2 + (y - 0.3) ** 2 < 0.04).astype(float)
        layers = np.stack([waves, disc * 2 - 1, x * 2 - 1], -1)[..., np.roll([0, 1, 2], place)]
        images.append(((layers + 1) * 127.5).astype(np.uint8))
    images.append(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8))
    return [Image.fromarray(image) for image in images]


def probe_rows(
    modality: Modality,
    spec: Mapping[str, Any],
    tokenizer: Path | str | None,
    longest: int | None = None,
) -> list[Row]:
    """The probe set as the tower's graph takes it: of a text, `longest` tokens at most."""
    if modality == "image":
        transform = ImageTransform.from_manifest(spec)
        return [transform(image) for image in probe_images()]
    if tokenizer is None:
        raise BundleError("the text tower has no tokenizer")
    allowed: int = spec["max_length"]
    read = TextTransform(tokenizer, {**spec, "max_length": min(allowed, longest or allowed)})
    return [features.row for features in read.prepare_many(PROBE_TEXTS)]


def by_length(run: Callable[[Sequence[Row]], Vectors], rows: Sequence[Row]) -> Vectors:
    """Rows in few calls, those of like length together -> float32 [rows, dimension], in order."""
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    groups = groupby(order, lambda place: len(rows[place]) > MAX_SHORT_LENGTH)
    parts = [list(part) for _, part in groups]
    vectors = np.concatenate([run([rows[place] for place in part]) for part in parts])
    in_order = np.empty_like(vectors)
    in_order[order] = vectors
    return in_order
