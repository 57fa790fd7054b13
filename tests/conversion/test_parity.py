"""The accuracy check: what it measures, what it rejects, and what it costs in memory."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.conversion.build import build_bundle
from multimodal_embedding_serving.conversion.parity import (
    BOUNDS,
    Check,
    check_parity,
    judge,
    least_bound,
    run_float32,
    run_layer_by_layer,
)
from multimodal_embedding_serving.conversion.probe_inputs import (
    PROBE_TEXTS,
    by_length,
    probe_images,
    probe_rows,
)
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.graph.openvino_ops import FLOAT32, emit_model
from multimodal_embedding_serving.graph.ops import Ops, T
from multimodal_embedding_serving.monitoring.memory import free_memory
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Row, Vectors
from tests.parity.small import small_arrays, small_config
from tests.parity.towers import read_towers, write_checkpoint
from tests.small_model import small_conversion, small_plans

EXACT = Settings(precision="f32", model_cache=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(small_conversion(), tmp_path_factory.mktemp("models") / "small")


def test_every_tower_is_measured_against_its_float32_graph(bundle: Bundle) -> None:
    stages: list[float] = []
    parity = check_parity(
        small_plans(),
        bundle,
        EXACT,
        progress=lambda stage, share: stages.append(share),
        free=1 << 40,
    )
    assert set(parity) == {"image", "text"}
    assert parity["image"]["items"] >= 4
    assert parity["text"]["items"] >= 8
    for each in parity.values():
        assert each["reference"] == "graph"
        assert (each["inference"], each["bound"]) == ("f32", BOUNDS["f16"])
        assert BOUNDS["f16"] <= each["minimum"] <= each["mean"] <= 1.000001
    assert stages[0] == 0
    assert stages[-1] == 1


def test_little_free_memory_turns_to_the_reference_layer_by_layer(bundle: Bundle) -> None:
    roomy = check_parity(small_plans(), bundle, EXACT, free=1 << 40)
    tight = check_parity(small_plans(), bundle, EXACT, free=1000)
    for modality in ("image", "text"):
        assert tight[modality]["reference"] == "layer by layer"
        assert abs(tight[modality]["minimum"] - roomy[modality]["minimum"]) < 1e-6


@pytest.mark.parametrize("model", ["clip-vit-b-16", "siglip2-vit-b-16"])
def test_both_references_are_the_same_to_rounding(model: str, tmp_path: Path) -> None:
    paths = write_checkpoint(tmp_path / "model.safetensors", small_arrays(model, "transformers"))
    plan = read_towers(paths, small_config(model)).plan("image")
    rows = probe_rows("image", plan.transform, None)
    graph = run_float32(plan, emit_model(plan.inputs, plan.build, FLOAT32), rows)
    assert (graph * run_layer_by_layer(plan, rows)).sum(1).min() >= 0.999999


def test_a_graph_of_other_weights_is_refused_with_its_cosine(bundle: Bundle) -> None:
    with pytest.raises(
        BundleError,
        match=r"Tests/small: accuracy check failed: cosine -?0\.\d+ to float32 < 0\.9999",
    ):
        check_parity(small_plans(seed=1), bundle, EXACT)


def test_a_refused_bundle_is_not_published(tmp_path: Path) -> None:
    def other(plans: Sequence[TowerSpec], bundle: Bundle) -> Check:
        return Check(check_parity(small_plans(seed=1), bundle, EXACT))

    with pytest.raises(BundleError, match="accuracy check failed"):
        build_bundle(small_conversion(), tmp_path / "small", other)
    assert not (tmp_path / "small").exists()


def broken(plan: TowerSpec) -> TowerSpec:
    """The same tower, whose vectors are no numbers."""

    def build(ops: Ops[T], inputs: Mapping[str, T]) -> T:
        return ops.scale(plan.build(ops, inputs), float("nan"))

    return dataclasses.replace(plan, build=build)


def test_vectors_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    plans = [broken(plan) for plan in small_plans()]
    conversion = small_conversion(plans=plans)
    bundle = build_bundle(conversion, tmp_path / "small")
    with pytest.raises(BundleError, match="NaN or infinite"):
        check_parity(plans, bundle, EXACT)


@pytest.mark.parametrize(
    ("stored", "inference", "bound"),
    [
        ("f32", "f32", 0.99999),
        ("f16", "f32", 0.9999),
        ("f16", "bf16", 0.999),
        ("f32", "bf16", 0.999),
        ("int8-weights", "f32", 0.99),
        ("int8-weights", "f16", 0.99),
        ("int4-weights", "f32", None),
    ],
)
def test_the_bound_is_that_of_the_coarser_precision(
    stored: str, inference: str, bound: float | None
) -> None:
    assert least_bound(stored, inference) == bound


def test_a_cosine_below_the_bound_is_refused_and_one_at_it_is_not(bundle: Bundle) -> None:
    exact = np.array([[1, 0], [1, 0]], np.float32)
    angle = np.arccos([0.99995, 0.9998])
    actual = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    with pytest.raises(
        BundleError,
        match=r"cosine 0\.99980 to float32 < 0\.9999 for the text tower \(stored as f16, inf",
    ):
        judge("text", bundle.manifest, actual, exact, "f32")
    figures = judge("text", bundle.manifest, actual[:1], exact[:1], "f32")
    assert figures["minimum"] == pytest.approx(0.99995, abs=1e-6)
    loose = dataclasses.replace(bundle.manifest, precision="int4-weights")
    assert judge("text", loose, actual, exact, "f32")["bound"] is None


def test_the_probes_are_of_several_languages_lengths_and_shapes() -> None:
    assert len(PROBE_TEXTS) >= 8
    assert sum(not text.isascii() for text in PROBE_TEXTS) >= 4
    assert min(map(len, PROBE_TEXTS)) == 1
    assert max(map(len, PROBE_TEXTS)) > 500
    images = probe_images()
    assert len(images) >= 4
    assert len({image.size for image in images}) == len(images)
    again = probe_images()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(images, again, strict=True))


def test_rows_of_like_length_go_together_and_come_back_in_order() -> None:
    lengths = [77, 3, 12, 50, 9]
    rows: list[Row] = [np.full(length, place, np.int32) for place, length in enumerate(lengths)]
    calls: list[list[int]] = []

    def run(part: Sequence[Row]) -> Vectors:
        calls.append([len(row) for row in part])
        return np.array([[row[0], 0] for row in part], np.float32)

    assert by_length(run, rows)[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert calls == [[3, 9, 12], [50, 77]]


# ── memory ──


MEASURE_MEMORY = """
import json, mmap, sys
from multimodal_embedding_serving.monitoring.memory import MemoryPeak, private_memory

size = int(sys.argv[2])
before = private_memory()
with open(sys.argv[1], "rb") as file, MemoryPeak() as mapped:
    view = mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ)
    assert sum(view[place] for place in range(0, size, 4096)) == 0
with MemoryPeak() as written:
    pages = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for place in range(0, size, 4096):
        pages[place] = 1
print(json.dumps([mapped.bytes - before, written.bytes - before]))
"""


def test_private_memory_grows_with_what_is_written_and_not_with_what_is_mapped(
    tmp_path: Path,
) -> None:
    """In a process of its own, on fresh pages: memory that was freed before would be used again."""
    size = 64 << 20
    (tmp_path / "file").write_bytes(bytes(size))
    command = [sys.executable, "-c", MEASURE_MEMORY, str(tmp_path / "file"), str(size)]
    mapped, written = json.loads(subprocess.check_output(command))
    assert mapped < size // 2
    assert written >= size // 2


def test_free_memory_is_the_machines_or_the_groups_if_that_is_less(tmp_path: Path) -> None:
    proc, group = tmp_path / "proc", tmp_path / "group"
    proc.mkdir()
    group.mkdir()
    (proc / "meminfo").write_text("MemTotal:  2000 kB\nMemAvailable:    1000 kB\nHuge: 0\n")
    assert free_memory(proc, group) == 1000 * 1024
    (group / "memory.max").write_text("500000\n")
    (group / "memory.current").write_text("300000\n")
    (group / "memory.stat").write_text("anon 200000\ninactive_file 90000\n")
    assert free_memory(proc, group) == 290_000
    (group / "memory.max").write_text("max\n")
    assert free_memory(proc, group) == 1000 * 1024
    assert free_memory(tmp_path / "none", tmp_path / "none") > 1 << 60
    assert 0 < free_memory() < 1 << 60
