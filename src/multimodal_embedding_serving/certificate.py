"""The parity certificate: how near a stored graph's vectors are to the float32 graph's.

A fixed probe set goes through both: texts of several languages and lengths, pictures of several
kinds and shapes. Minimum and mean cosine are written into the manifest, and a graph below its
bound is not published. Where the float32 graph does not fit in half of the free memory, the
reference is computed layer by layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multimodal_embedding_serving.backends.openvino import (
    OpenVINOGraph,
    collate,
    compile_graph,
    compile_options,
)
from multimodal_embedding_serving.bundle import Bundle
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.families import TowerPlan
from multimodal_embedding_serving.graph.numpy_ops import NumpyOps
from multimodal_embedding_serving.graph.openvino_ops import FLOAT32, emit_model
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.image import ImageTransform
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Row, Vectors

BOUNDS: Mapping[str, float | None] = {
    "f32": 0.99999,
    "f16": 0.9999,
    "bf16": 0.999,
    "int8-weights": 0.99,
    "int8": 0.98,
    "int4-weights": None,
}
"""Least cosine to the float32 graph, by precision of storage or inference; None: shown only."""

PROBE_TEXTS = (
    "a photo of a cat",
    "Two dogs run along the beach at sunset.",
    "error 0x80070057: the parameter is incorrect",
    "Ein roter Bus hält vor dem alten Rathaus.",
    "Une tasse de café sur une table en bois",
    "El niño lee un libro bajo el árbol.",
    "一只猫坐在窗台上看雨",
    "東京の夜景、雨に濡れた道路",
    "Кошка спит на подоконнике.",
    "قطة تجلس على النافذة",
    "बिल्ली खिड़की पर बैठी है",
    "x",
    "SKU 4711-B, size XL, colour: navy blue, 49.90 EUR",
    "A long description: " + "the quick brown fox jumps over the lazy dog near the river " * 12,
)


def probe_pictures() -> list[Image.Image]:
    """Eight RGB pictures made by rule: ramps, stripes, discs, noise, of several shapes."""
    rng = np.random.default_rng(20260101)
    shapes = [(224, 224), (480, 640), (640, 360), (333, 335), (97, 512), (256, 256), (64, 48)]
    pictures: list[NDArray[np.uint8]] = []
    for place, (high, wide) in enumerate(shapes):
        y, x = np.mgrid[0:high, 0:wide] / max(high, wide)
        waves = np.sin((place + 1) * 7 * x + place) * np.cos((place + 2) * 5 * y)
        disc = ((x - 0.4) ** 2 + (y - 0.3) ** 2 < 0.04).astype(float)
        layers = np.stack([waves, disc * 2 - 1, x * 2 - 1], -1)[..., np.roll([0, 1, 2], place)]
        pictures.append(((layers + 1) * 127.5).astype(np.uint8))
    pictures.append(rng.integers(0, 256, (300, 300, 3), dtype=np.uint8))
    return [Image.fromarray(picture) for picture in pictures]


def certify(plans: Sequence[TowerPlan], bundle: Bundle, settings: Settings) -> dict[str, Any]:
    """Measure every tower of a bundle -> what the manifest's `parity` holds.

    Raises BundleError naming the tower, its cosine and the bound that it missed.
    """
    parity: dict[str, Any] = {}
    for plan in plans:
        rows = probe_rows(plan, bundle.tokenizer)
        graph = compile_graph(
            bundle.graph(plan.modality), settings, pad_id=plan.transform.get("pad_id", 0)
        )
        found = one_by_one(graph, rows)
        inference = graph.precision
        graph.close()
        expected, reference = compute_reference(plan, rows)
        cosines = (found * expected).sum(1)
        bound = least_bound(bundle.manifest.precision, inference)
        parity[plan.modality] = {
            "minimum": round(float(cosines.min()), 7),
            "mean": round(float(cosines.mean()), 7),
            "items": len(rows),
            "inference": inference,
            "reference": reference,
            "bound": bound,
        }
        if not np.isfinite(found).all() or (bound is not None and cosines.min() < bound):
            raise BundleError(
                f"{bundle.manifest.model}: the {plan.modality} graph in "
                f"{bundle.manifest.precision} reaches a cosine of {cosines.min():.5f} to the "
                f"float32 graph, below its bound of {bound}; it is not published"
            )
    return parity


def least_bound(stored: str, inference: str) -> float | None:
    """The bound that a stored precision and an inference precision together must meet."""
    first, second = BOUNDS[stored], BOUNDS.get(inference, BOUNDS["bf16"])
    return None if first is None or second is None else min(first, second)


def probe_rows(plan: TowerPlan, tokenizer: Path | None) -> list[Row]:
    """The probe set as the tower's graph takes it."""
    if plan.modality == "image":
        transform = ImageTransform.from_manifest(plan.transform)
        return [transform(picture) for picture in probe_pictures()]
    if tokenizer is None:
        raise BundleError("a text tower needs a tokenizer")
    read = TextTransform(tokenizer, dict(plan.transform))
    return [read.prepare(text).row for text in PROBE_TEXTS]


def one_by_one(graph: OpenVINOGraph, rows: Sequence[Row]) -> Vectors:
    """Each row alone, so that the least memory is taken -> float32 [rows, dimension]."""
    return np.concatenate([graph([row]) for row in rows])


def compute_reference(plan: TowerPlan, rows: Sequence[Row]) -> tuple[Vectors, str]:
    """The float32 vectors of rows, and how they were computed: "graph" or "layer by layer"."""
    pad_id = plan.transform.get("pad_id", 0)
    model = emit_model(plan.inputs, plan.build, FLOAT32)
    if 4 * count_parameters(model) > free_memory() // 2:
        ops = NumpyOps()
        vectors = [plan.build(ops, collate([row], list(plan.inputs), pad_id)) for row in rows]
        return np.concatenate(vectors), "layer by layer"
    exact = Settings(precision="f32", model_cache=False)
    compiled = ov.Core().compile_model(model, "CPU", compile_options(exact))
    return one_by_one(OpenVINOGraph(compiled, pad_id), rows), "graph"


def count_parameters(model: ov.Model) -> int:
    """How many numbers a model's constants hold."""
    constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    return sum(int(np.prod(node.get_output_shape(0))) for node in constants)


def free_memory() -> int:
    """Bytes that this process may still take: the machine's, or its control group's if less."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and (most := limit.read_text().strip()) != "max":
        free = min(free, int(most) - int(used.read_text()))
    return max(free, 0)
