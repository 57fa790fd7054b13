"""The parity check: how close a stored graph's vectors are to the float32 graph's.

A fixed probe set goes through both: texts of several languages and lengths, images of several
kinds and shapes. Minimum and mean cosine are written into the manifest, and a graph below its
bound is rejected. Where the float32 graph does not fit in half of the free memory, the reference is
computed layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multimodal_embedding_serving.backends import compile_tower
from multimodal_embedding_serving.backends.openvino import (
    OpenVINOGraph,
    collate,
    compile_options,
)
from multimodal_embedding_serving.backends.static import StaticShape, choose_shape, is_static
from multimodal_embedding_serving.bundles.bundle import Bundle, Manifest
from multimodal_embedding_serving.bundles.torch_model import TorchModel
from multimodal_embedding_serving.conversion.parallel import map_towers
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.graph.numpy_ops import NumpyOps
from multimodal_embedding_serving.graph.openvino_ops import FLOAT32, emit_model
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.monitoring.memory import free_memory
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.image import ImageTransform
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Modality, Progress, Row, Vectors, ignore_progress

BOUNDS: Mapping[str, float | None] = {
    "f32": 0.99999,
    "f16": 0.9999,
    "bf16": 0.999,
    "int8-weights": 0.99,
    "int8": 0.98,
    "int4-weights": None,
}
"""Lowest cosine to the float32 graph, by precision of storage or inference; None: report only."""

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


class ParityFailed(BundleError):
    """A stored graph's vectors are too far from those of the float32 graph."""


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


def check_parity(
    plans: Sequence[TowerSpec],
    model: Bundle | TorchModel,
    settings: Settings,
    *,
    progress: Progress = ignore_progress,
    free: int | None = None,
    static: bool | None = None,
) -> dict[str, Any]:
    """Measure every tower of a model -> what the manifest's `parity` holds.

    `free` is the memory the check may use, in bytes; None: what the machine has. `static`: compile
    static shapes; None: where the serving device requires them. Raises BundleError
    naming the tower, its cosine and the bound that it missed.
    """
    if static is None:
        static = isinstance(model, Bundle) and is_static(settings.device)
    room = (free_memory() if free is None else free) // 2
    references = {plan.modality: emit_model(plan.inputs, plan.build, FLOAT32) for plan in plans}
    sizes = {modality: 4 * count_parameters(exact) for modality, exact in references.items()}

    def measure(plan: TowerSpec) -> dict[str, Any]:
        shape = choose_shape(plan.transform, settings) if static else None
        rows = probe_rows(plan, model.tokenizer, None if shape is None else shape.length)
        vectors, inference = run_served(plan, model, settings, rows, shape)
        exact = references.pop(plan.modality)
        fits = sizes[plan.modality] <= room
        expected = run_float32(plan, exact, rows) if fits else run_layer_by_layer(plan, rows)
        return {
            **judge(plan.modality, model.manifest, vectors, expected, inference),
            "reference": "graph" if fits else "layer by layer",
        }

    report = partial(progress, "checking accuracy")
    figures = map_towers(measure, plans, report, together=sum(sizes.values()) <= room)
    return {str(modality): each for modality, each in figures.items()}


def judge(
    modality: Modality, manifest: Manifest, vectors: Vectors, expected: Vectors, inference: str
) -> dict[str, Any]:
    """The figures of one tower. Raises ParityFailed where they miss the bound."""
    cosines = (vectors * expected).sum(1)
    bound = least_bound(manifest.precision, inference)
    if not np.isfinite(cosines).all():
        raise ParityFailed(
            f"{manifest.model}: accuracy check failed: the {modality} tower in "
            f"{manifest.precision} returns NaN or infinite values; use a higher EMBEDDING_PRECISION"
        )
    if bound is not None and cosines.min() < bound:
        raise ParityFailed(
            f"{manifest.model}: accuracy check failed: cosine {cosines.min():.5f} to float32 "
            f"< {bound} for the {modality} tower in {manifest.precision}; "
            "use a higher EMBEDDING_PRECISION"
        )
    return {
        "minimum": round(float(cosines.min()), 7),
        "mean": round(float(cosines.mean()), 7),
        "items": len(cosines),
        "inference": inference,
        "bound": bound,
    }


def least_bound(stored: str, inference: str) -> float | None:
    """The bound for a stored precision combined with an inference precision."""
    first, second = BOUNDS[stored], BOUNDS.get(inference, BOUNDS["bf16"])
    return None if first is None or second is None else min(first, second)


def probe_rows(
    plan: TowerSpec, tokenizer: Path | str | None, longest: int | None = None
) -> list[Row]:
    """The probe set as the tower's graph takes it: of a text, `longest` tokens at most."""
    if plan.modality == "image":
        transform = ImageTransform.from_manifest(plan.transform)
        return [transform(image) for image in probe_images()]
    if tokenizer is None:
        raise BundleError("the text tower has no tokenizer")
    allowed: int = plan.transform["max_length"]
    read = TextTransform(
        tokenizer, {**plan.transform, "max_length": min(allowed, longest or allowed)}
    )
    return [features.row for features in read.prepare_many(PROBE_TEXTS)]


def run_served(
    plan: TowerSpec,
    model: Bundle | TorchModel,
    settings: Settings,
    rows: Sequence[Row],
    shape: StaticShape | None = None,
) -> tuple[Vectors, str]:
    """The vectors as they will be served, on the serving device, and the inference precision."""
    graph = compile_tower(model, plan.modality, settings, shape)
    vectors = by_length(graph, rows)
    graph.close()
    return vectors, graph.precision


def run_float32(plan: TowerSpec, model: ov.Model, rows: Sequence[Row]) -> Vectors:
    """The vectors of a model of float32 weights in float32 inference."""
    exact = Settings(precision="f32", model_cache=False)
    # Compiling snippets (fused small operations) takes longer than a few calls save.
    options = {**compile_options(exact), "SNIPPETS_MODE": "DISABLE"}
    compiled = ov.Core().compile_model(model, "CPU", options)
    return by_length(OpenVINOGraph(compiled, pad_id(plan)), rows)


def run_layer_by_layer(plan: TowerSpec, rows: Sequence[Row]) -> Vectors:
    """The float32 vectors, one weight at a time in memory."""
    names = list(plan.inputs)
    return by_length(lambda part: plan.build(NumpyOps(), collate(part, names, pad_id(plan))), rows)


def by_length(run: Callable[[Sequence[Row]], Vectors], rows: Sequence[Row]) -> Vectors:
    """Rows in few calls, those of like length together -> float32 [rows, dimension], in order."""
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    groups = groupby(order, lambda place: len(rows[place]) > MAX_SHORT_LENGTH)
    parts = [list(part) for _, part in groups]
    vectors = np.concatenate([run([rows[place] for place in part]) for part in parts])
    in_order = np.empty_like(vectors)
    in_order[order] = vectors
    return in_order


def pad_id(plan: TowerSpec) -> int:
    return int(plan.transform.get("pad_id", 0))


def count_parameters(model: ov.Model) -> int:
    """How many numbers a model's constants hold."""
    constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    return sum(int(np.prod(node.get_output_shape(0))) for node in constants)
