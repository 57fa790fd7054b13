"""The parity check: how close a stored graph's vectors are to the float32 graph's.

A fixed probe set goes through both: texts of several languages and lengths, images of several
kinds and shapes. Two figures have bounds: the cosine to the float32 vector, and the cosine of an
item alone to the same item in a batch, both in the arithmetic that will be served. They are written
into the manifest, and a graph below its bound is rejected. Where the float32 graph does not fit in
half of the free memory, the reference is computed layer by layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from multimodal_embedding_serving.backends import compile_tower
from multimodal_embedding_serving.backends.openvino import (
    OpenVINOGraph,
    collate,
    compile_options,
)
from multimodal_embedding_serving.backends.quantization import group_size
from multimodal_embedding_serving.backends.static import StaticShape, choose_shape, is_static
from multimodal_embedding_serving.bundles.bundle import Bundle, Manifest
from multimodal_embedding_serving.bundles.torch_model import TorchModel
from multimodal_embedding_serving.conversion.parallel import map_towers
from multimodal_embedding_serving.conversion.probe_inputs import by_length, probe_rows
from multimodal_embedding_serving.conversion.probes import Probes, read_probes
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.graph.numpy_ops import NumpyOps
from multimodal_embedding_serving.graph.openvino_ops import FLOAT32, emit_model
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.monitoring.memory import free_memory
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import (
    Graph,
    Modality,
    Progress,
    Row,
    Vectors,
    ignore_progress,
)

BOUNDS: Mapping[str, float | None] = {
    "f32": 0.99999,
    "f16": 0.9999,
    "bf16": 0.999,
    "int8-weights": 0.99,
    "int8": 0.98,
    "int4-weights": None,
}
"""Lowest cosine to the float32 graph, by precision of storage or inference; None: report only."""

BATCH_BOUNDS: Mapping[str, float] = {"f32": 0.99999, "bf16": 0.9999, "quantized": 0.999}
"""Lowest cosine of an item alone to the same item in a batch, by inference precision, or for
dynamically quantized activations."""


OPENING_PROBES: Mapping[Modality, int] = {"image": 1, "text": 2}
"""How many probes each opening runs: the shortest ones."""
RESIZED_BOUND = 0.99
"""For images that this machine's Pillow rounds differently than the one that converted."""
MIN_UNBOUND_COSINE, UNBOUND_MARGIN = 0.8, 0.01
"""For 4-bit weights, whose cosine is only reported: a form that nobody measured, and the distance
between the batches of two checks."""


class ParityFailed(BundleError):
    """A stored graph's vectors are too far from those of the float32 graph."""


@dataclass(frozen=True, slots=True)
class Check:
    """What a conversion's accuracy check gives to the manifest and to this machine."""

    parity: Mapping[str, Any] = field(default_factory=dict)
    """Figures by tower, in the form that passed."""
    probes: Mapping[Modality, Probes] = field(default_factory=dict)


def check_parity(
    plans: Sequence[TowerSpec],
    model: Bundle | TorchModel,
    settings: Settings,
    *,
    progress: Progress = ignore_progress,
    free: int | None = None,
    static: bool | None = None,
    probes: dict[Modality, Probes] | None = None,
) -> dict[str, Any]:
    """Measure every tower of a model, as `settings` compile it -> the manifest's `parity`.

    `free` is the memory the check may use, in bytes; None: what the machine has. `static`: compile
    static shapes; None: where the serving device requires them. `probes` receives the float32
    vectors; those it has already are reused. Raises ParityFailed with the tower, its cosine and the
    bound that it missed.
    """
    if static is None:
        static = isinstance(model, Bundle) and is_static(settings.device)
    known: dict[Modality, Probes] = {} if probes is None else probes
    room = (free_memory() if free is None else free) // 2
    references = _References([plan for plan in plans if plan.modality not in known], room)

    def measure(plan: TowerSpec) -> dict[str, Any] | ParityFailed:
        modality = plan.modality
        shape = choose_shape(plan.transform, settings) if static else None
        longest = None if shape is None else shape.length
        rows = probe_rows(modality, plan.transform, model.tokenizer, longest)
        served = run_served(model, modality, settings, rows, shape)
        if modality not in known:
            known[modality] = references.compute(plan, rows)
        try:
            return assess(model.manifest, modality, served, known[modality])
        except ParityFailed as error:
            return error  # raised once the other towers have their probes too

    report = partial(progress, "checking accuracy")
    return _passed(map_towers(measure, plans, report, together=references.fit))


def _passed(results: Mapping[Modality, dict[str, Any] | ParityFailed]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for modality, result in results.items():
        if isinstance(result, ParityFailed):
            raise result
        figures[modality] = result
    return figures


class _References:
    """The float32 graphs of some towers, each released once it has run."""

    def __init__(self, plans: Sequence[TowerSpec], room: int) -> None:
        """`room` is the memory that they may take, in bytes."""
        graphs = {plan.modality: emit_model(plan.inputs, plan.build, FLOAT32) for plan in plans}
        self._sizes = {modality: 4 * count_parameters(graph) for modality, graph in graphs.items()}
        self._graphs, self._room = graphs, room
        self.fit = sum(self._sizes.values()) <= room
        """Whether all of them fit at the same time."""

    def compute(self, plan: TowerSpec, rows: Sequence[Row]) -> Probes:
        graph = self._graphs.pop(plan.modality)
        if self._sizes[plan.modality] <= self._room:
            return Probes(rows, run_float32(plan, graph, rows), "graph")
        return Probes(rows, run_layer_by_layer(plan, rows), "layer by layer")


def check_bundle(
    bundle: Bundle, probes: Mapping[Modality, Probes], settings: Settings
) -> dict[str, Any]:
    """As `check_parity`, by probes that are at hand. Raises ParityFailed."""
    static = is_static(settings.device)
    figures: dict[str, Any] = {}
    for modality, tower in bundle.manifest.towers.items():
        shape = choose_shape(tower.transform, settings) if static else None
        fitting = fit(probes[modality], shape)
        served = run_served(bundle, modality, settings, fitting.rows, shape)
        figures[modality] = assess(bundle.manifest, modality, served, fitting)
    return figures


def check_opened(
    graph: Graph,
    bundle: Bundle,
    modality: Modality,
    shape: StaticShape | None = None,
    parity: Mapping[str, Any] | None = None,
) -> None:
    """Compare an opened graph's vectors with the manifest's, as the accuracy check does.

    Two probes are enough to find a damaged blob or weight; where they miss the bound, all of them
    decide, in the batches in which the form was chosen. `parity` has the figures of that choice.
    Raises ParityFailed.
    """
    bound = opening_bound(bundle.manifest, modality, graph.precision, parity or {})
    stored = read_probes(bundle, modality)
    if stored is None and (stored := read_probes(bundle, modality, exact=False)) is not None:
        bound = min(bound, RESIZED_BOUND)
    if stored is None:  # a bundle that gets its probes later
        return
    probes = fit(stored, shape)
    order = sorted(range(len(probes.rows)), key=lambda place: len(probes.rows[place]))
    few = order[: OPENING_PROBES[modality]]
    for places in (few, order):
        rows = [probes.rows[place] for place in places]
        vectors, expected = by_length(graph, rows), probes.vectors[places]
        if vectors.shape != expected.shape:
            raise ParityFailed(
                f"{bundle.manifest.model}: the {modality} tower returns vectors of "
                f"{vectors.shape[-1]} dimensions, not {expected.shape[-1]}"
            )
        least = float(cosines_of(vectors, expected).min())
        if least >= bound:  # not so for NaN
            return
    raise ParityFailed(
        f"{bundle.manifest.model}: the vectors of the {modality} tower differ from those in its "
        f"manifest: cosine {least:.5f} < {bound:.5f}"
    )


def opening_bound(
    manifest: Manifest, modality: Modality, inference: str, parity: Mapping[str, Any]
) -> float:
    """The bound of the form that is served; where it has none, just below what was measured."""
    bound = least_bound(manifest.precision, inference)
    if bound is not None:
        return bound
    figures = parity.get(modality) or manifest.parity.get(modality) or {}
    return float(figures.get("minimum", MIN_UNBOUND_COSINE)) - UNBOUND_MARGIN


def fit(probes: Probes, shape: StaticShape | None) -> Probes:
    """The probes without texts that are longer than a static shape."""
    if shape is None or shape.length is None:
        return probes
    places = [place for place, row in enumerate(probes.rows) if len(row) <= shape.length]
    rows = [probes.rows[place] for place in places]
    return Probes(rows, probes.vectors[places], probes.reference)


def assess(
    manifest: Manifest, modality: Modality, served: Served, probes: Probes
) -> dict[str, Any]:
    """The figures of one tower. Raises ParityFailed."""
    figures = judge(
        modality, manifest, served.vectors, probes.vectors, served.inference,
        batch=served.alone, group=served.group,
    )  # fmt: skip
    return {**figures, "reference": probes.reference}


def judge(
    modality: Modality,
    manifest: Manifest,
    vectors: Vectors,
    expected: Vectors,
    inference: str,
    *,
    batch: float | None = None,
    group: int = 0,
) -> dict[str, Any]:
    """The figures of one tower. Raises ParityFailed where they miss a bound.

    `batch` is the least cosine of an item alone to the same item in a batch; None: not measured.
    """
    cosines = (vectors * expected).sum(1)
    bound = least_bound(manifest.precision, inference)
    batch_bound = least_batch_bound(inference, group)
    failure = None
    if not np.isfinite(cosines).all():
        failure = "NaN or infinite values"
    elif bound is not None and cosines.min() < bound:
        failure = f"cosine {cosines.min():.5f} to float32 < {bound}"
    elif batch is not None and not batch >= batch_bound:
        failure = f"cosine {batch:.6f} between an item alone and in a batch < {batch_bound}"
    if failure is not None:
        form = f"stored as {manifest.precision}, inference in {inference}"
        form += f", dynamic quantization in groups of {group}" if group else ""
        raise ParityFailed(
            f"{manifest.model}: accuracy check failed: {failure} for the {modality} tower "
            f"({form}); use a higher EMBEDDING_PRECISION"
        )
    return {
        "minimum": round(float(cosines.min()), 7),
        "mean": round(float(cosines.mean()), 7),
        "items": len(cosines),
        "inference": inference,
        "bound": bound,
    } | ({} if batch is None else {"batch_minimum": round(batch, 7), "batch_bound": batch_bound})


def least_bound(stored: str, inference: str) -> float | None:
    """The bound for a stored precision combined with an inference precision."""
    first, second = BOUNDS[stored], BOUNDS.get(inference, BOUNDS["bf16"])
    return None if first is None or second is None else min(first, second)


def least_batch_bound(inference: str, group: int) -> float:
    """The bound of an item alone against the same item in a batch."""
    if group:
        return BATCH_BOUNDS["quantized"]
    return BATCH_BOUNDS.get(inference, BATCH_BOUNDS["bf16"])


@dataclass(frozen=True, slots=True)
class Served:
    """Vectors of the probes in one form, and how that form computes."""

    vectors: Vectors
    inference: str
    group: int
    alone: float | None
    """Least cosine of an item alone to the same item in a batch; None: never batched."""


def run_served(
    model: Bundle | TorchModel,
    modality: Modality,
    settings: Settings,
    rows: Sequence[Row],
    shape: StaticShape | None = None,
) -> Served:
    """The vectors as these settings serve them, on the serving device."""
    graph = compile_tower(model, modality, settings, shape)
    try:
        vectors = by_length(graph, rows)
        alone = None
        if shape is None and isinstance(model, Bundle):
            places = choose_single(rows)
            single = np.concatenate([graph([rows[place]]) for place in places])
            alone = float(cosines_of(single, vectors[places]).min())
    finally:
        graph.close()
    group = group_size(settings) if isinstance(model, Bundle) else 0
    return Served(vectors, graph.precision, group, alone)


def choose_single(rows: Sequence[Row]) -> list[int]:
    """The places of the rows that run alone too: one image; the shortest text and a middle one.

    Each new shape costs OpenVINO a preparation, so that more would make conversions slower.
    """
    if rows[0].ndim > 1:
        return [len(rows) - 1]
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    return [order[0], order[len(order) // 2]]


def cosines_of(one: Vectors, other: Vectors) -> Vectors:
    """Cosines row by row; a bf16 graph's vectors are of unit length only nearly."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosines: Vectors = (one * other).sum(1) / norms
    return cosines


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


def pad_id(plan: TowerSpec) -> int:
    return int(plan.transform.get("pad_id", 0))


def count_parameters(model: ov.Model) -> int:
    """How many numbers a model's constants hold."""
    constants = (node for node in model.get_ops() if node.get_type_name() == "Constant")
    return sum(int(np.prod(node.get_output_shape(0))) for node in constants)
