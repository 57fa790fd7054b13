"""INT8 weights and activations: quantizes a graph, calibrated on sample images and texts.

nncf (the extra `quantize`) observes the float32 graph while it embeds the samples and picks the
range of every activation. The samples are several crops of the shipped photos and the captions
below; or the images and the lines of the .txt files of a folder (EMBEDDING_CALIBRATION_DIR),
which should resemble the production data. They never include the accuracy check's probes. nncf is
imported to convert and never to serve; `graph.runtime` disables its telemetry.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Sequence
from importlib.resources import files
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

from PIL import Image

from multimodal_embedding_serving.backends.openvino import collate
from multimodal_embedding_serving.errors import BundleError, EmbeddingError, MissingExtra
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.media.image import decode_rgb, image_limits
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.image import ImageTransform
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Row

log = logging.getLogger(__name__)

MAX_SAMPLES = 200
"""Samples per tower: nncf recommends 300, but the ranges settle much earlier."""
CROPS = ((0, 0, 1, 1), (0, 0, 0.6, 0.6), (0.4, 0, 1, 0.6), (0, 0.4, 0.6, 1), (0.4, 0.4, 1, 1))
"""(left, top, right, bottom) of each crop of a shipped photo, as fractions; also mirrored."""
CAPTIONS = tuple(
    """
    a dog runs after a ball on the beach
    two children on swings in a park
    a plate of pasta with basil and tomatoes
    aerial view of a river delta at dawn
    close-up of a bee on a yellow flower
    city street at night in the rain, neon signs
    portrait of an old man with a white beard
    a red sports car on a mountain road
    screenshot of a spreadsheet with sales figures
    a crowded stadium during a football match
    black and white photograph of a steam locomotive
    a bowl of fresh strawberries on a wooden table
    a woman reading a newspaper in a café
    x-ray image of a hand
    snow-covered trees
    laptop
    how do I reset my password?
    what causes inflation
    The committee approved the budget on Tuesday after a long debate about pensions and roads.
    def add(a, b): return a + b
    Der Zug nach München fährt heute von Gleis 7 ab.
    Un gato negro duerme en el tejado.
    Les enfants jouent dans la cour de l'école.
    公园里有很多人在跑步
    東京タワーの夜景
    Дети играют во дворе.
    السوق القديم في الصباح
    order no. 48213 was shipped on 2024-03-18 and should arrive within 5 working days
    water boils at 100 degrees Celsius at sea level; at higher altitudes the boiling point falls
    """.strip().splitlines()
)


def require_nncf() -> None:
    """Raises MissingExtra, before anything is downloaded or built."""
    if find_spec("nncf") is None:
        raise MissingExtra("EMBEDDING_PRECISION=int8", "quantize")


def quantize_activations(
    plan: TowerSpec, model: ov.Model, tokenizer: Path | str | None, settings: Settings
) -> ov.Model:
    """Quantize a float32 graph's weights and activations to 8-bit integers."""
    import nncf  # an extra

    rows = sample_rows(plan, tokenizer, settings)
    names, pad_id = list(plan.inputs), int(plan.transform.get("pad_id", 0))
    items = [collate([row], names, pad_id) for row in rows]
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(items),
            subset_size=len(items),
            model_type=nncf.ModelType.TRANSFORMER,
        )


def sample_rows(plan: TowerSpec, tokenizer: Path | str | None, settings: Settings) -> list[Row]:
    """The calibration inputs of a tower. Raises BundleError where the folder contains none."""
    folder = settings.calibration_dir
    if plan.modality == "text":
        texts = list(CAPTIONS) if folder is None else list(islice(_lines(folder), MAX_SAMPLES))
        read = TextTransform(tokenizer or "", dict(plan.transform))
        rows = [features.row for features in read.prepare_many([text.strip() for text in texts])]
    else:
        transform = ImageTransform.from_manifest(plan.transform)
        images = _sample_images() if folder is None else _images(folder, settings)
        rows = [transform(image) for image in islice(images, MAX_SAMPLES)]
    if folder is not None and not folder.is_dir():
        raise BundleError("EMBEDDING_CALIBRATION_DIR is not a folder")
    if not rows:
        what = "lines in .txt files" if plan.modality == "text" else "images"
        raise BundleError(f"EMBEDDING_CALIBRATION_DIR contains no {what} to calibrate with")
    return rows


def _sample_images() -> Iterator[Image.Image]:
    samples = Path(str(files("multimodal_embedding_serving").joinpath("builtin", "samples")))
    for path in sorted(samples.glob("*.jpg")):
        with Image.open(path) as photo:
            whole = photo.convert("RGB")
        for left, top, right, bottom in CROPS:
            wide, high = whole.size
            crop = whole.crop(
                (int(left * wide), int(top * high), int(right * wide), int(bottom * high))
            )
            yield crop
            yield crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _images(folder: Path, settings: Settings) -> Iterator[Image.Image]:
    """Every image in a folder and its subfolders, in order of path; skips all other files."""
    limits = image_limits(settings)
    for path in _files(folder):
        with contextlib.suppress(EmbeddingError, OSError):
            yield decode_rgb(path.read_bytes(), limits)


def _lines(folder: Path) -> Iterator[str]:
    for path in _files(folder):
        if path.suffix == ".txt":
            yield from filter(str.strip, path.read_text("utf-8", "replace").splitlines())


def _files(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
