"""From a checkpoint to a bundle: open, plan, emit, compress, certify, seal, publish."""

from __future__ import annotations

import dataclasses
import logging
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from multimodal_embedding_serving.bundles.bundle import (
    Bundle,
    Manifest,
    TowerManifest,
    publishing,
    seal,
    settle,
)
from multimodal_embedding_serving.conversion.blueprint import Blueprint
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.graph.identity import hash_structure
from multimodal_embedding_serving.graph.openvino_ops import (
    FLOAT16,
    FLOAT32,
    INT4_WEIGHTS,
    INT8_WEIGHTS,
    Storage,
    emit_model,
)
from multimodal_embedding_serving.graph.runtime import keeping_locale, ov
from multimodal_embedding_serving.monitoring.memory import MemoryPeak
from multimodal_embedding_serving.types import Modality, Progress, ignore_progress

log = logging.getLogger(__name__)

STORAGES: Mapping[str, Storage] = {
    "f32": FLOAT32,
    "f16": FLOAT16,
    "int8-weights": INT8_WEIGHTS,
    "int4-weights": INT4_WEIGHTS,
    "int8": FLOAT16,  # what stays floating once the graph is quantised
}
BYTES_EACH = {"f32": 4.0, "f16": 2.0, "int8-weights": 1.05, "int4-weights": 0.75, "int8": 1.5}
"""Bytes of a stored number, scales and the parts that stay floating included."""

TOKENIZER = "tokenizer.json"

Result = TypeVar("Result")
CheckParity = Callable[[Sequence[TowerSpec], Bundle], Mapping[str, Any]]
Quantize = Callable[[TowerSpec, ov.Model], ov.Model]


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion(Blueprint):
    """Everything that a bundle is made of: a blueprint, and how its weights will be stored."""

    precision: str
    quantize: Quantize | None = None
    """What makes a float32 graph an int8 one."""

    @classmethod
    def of(
        cls, blueprint: Blueprint, precision: str, quantize: Quantize | None = None
    ) -> Conversion:
        parts = {each.name: getattr(blueprint, each.name) for each in dataclasses.fields(blueprint)}
        return cls(**parts, precision=precision, quantize=quantize)


def build_bundle(
    conversion: Conversion,
    final: Path,
    check_parity: CheckParity | None = None,
    progress: Progress = ignore_progress,
) -> Bundle:
    """Write the bundle under a temporary name, certify it, and rename it to `final`.

    The caller that shares the folder with other processes holds `locked(final)`. Whatever raises,
    `check_parity` too, leaves what was at `final` as it was. Raises BundleError.
    """
    building, certifying = MemoryPeak(), MemoryPeak()
    try:
        with publishing(final) as folder:
            if conversion.tokenizer is not None:
                (folder / TOKENIZER).write_text(conversion.tokenizer, "utf-8")
            with building:
                towers = _save_towers(conversion, folder, progress)
            manifest = draw_manifest(conversion, towers)
            with ThreadPoolExecutor(1) as pool:
                files = pool.submit(settle, folder)
                if check_parity is not None:
                    with certifying:
                        parity = dict(check_parity(conversion.plans, Bundle(folder, manifest)))
                    manifest = dataclasses.replace(manifest, parity=parity)
            progress("publishing the bundle", 0.0)
            seal(folder, manifest, files.result())
    except OSError as error:
        raise BundleError(f"the bundle can't be written: {error.strerror}") from error
    bundle = Bundle.load(final)
    log.info(
        "converted %s to %s: %.0f MB; building took %.1f s and %.0f MB of private memory, "
        "certifying %.1f s and %.0f MB",
        conversion.model, conversion.precision, bundle.size / 1e6, building.seconds,
        building.bytes / 1e6, certifying.seconds, certifying.bytes / 1e6,
    )  # fmt: skip
    return bundle


def each_tower(
    work: Callable[[TowerSpec], Result],
    plans: Sequence[TowerSpec],
    tell: Callable[[float], None],
    *,
    together: bool = True,
) -> dict[Modality, Result]:
    """`work(plan)` of every tower, at the same time or one after the other; `tell` hears the share.

    Most of the work is that of one core, in libraries that leave the interpreter free.
    """
    tell(0.0)
    pool = ThreadPoolExecutor(len(plans) if together else 1)
    with keeping_locale():
        try:
            futures = {pool.submit(work, plan): plan.modality for plan in plans}
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                tell(done / len(plans))
        finally:
            pool.shutdown(cancel_futures=True)
    return {modality: future.result() for future, modality in futures.items()}


def require_space(numbers: int, precision: str, folder: Path) -> None:
    """Before anything is written: raise BundleError where the folder's disk has no room for the
    bundle of so many numbers.
    """
    needed = int(numbers * BYTES_EACH[precision])
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BundleError(
            f"the bundle needs {megabytes(needed)}, and the disk of the models folder has "
            f"{megabytes(free)} free; set EMBEDDING_OV_MODELS_DIR or run mmes models --prune"
        )


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"


def _save_towers(
    conversion: Conversion, folder: Path, progress: Progress
) -> dict[Modality, TowerManifest]:
    def save(plan: TowerSpec) -> TowerManifest:
        storage = dataclasses.replace(STORAGES[conversion.precision], **plan.storage)
        # OpenVINO compresses to f16 while it writes: no copy is made here, and its own form of
        # compressed constants compiles in two thirds of the time.
        half = storage == FLOAT16
        model = emit_model(plan.inputs, plan.build, FLOAT32 if half else storage)
        if conversion.quantize is not None:
            model = conversion.quantize(plan, model)
        name = f"{plan.modality}.xml"
        structure = hash_structure(model)
        try:
            ov.save_model(model, folder / name, compress_to_fp16=half)
        except RuntimeError as error:  # of its stream: it does not say what is wrong
            room = megabytes(shutil.disk_usage(folder).free)
            raise BundleError(
                f"{name} can't be written, with {room} free on the disk of the models folder"
            ) from error
        return TowerManifest(graph=name, transform=dict(plan.transform), structure=structure)

    tell = partial(progress, "building the graphs")
    return each_tower(save, conversion.plans, tell, together=conversion.quantize is None)


def draw_manifest(conversion: Conversion, towers: Mapping[Modality, TowerManifest]) -> Manifest:
    """What is known before the graphs are measured and the files hashed."""
    return Manifest(
        model=conversion.model,
        family=conversion.family,
        precision=conversion.precision,
        dimension=conversion.plans[0].dimension,
        towers=towers,
        source=conversion.source,
        licence=conversion.licence,
        tokenizer=None if conversion.tokenizer is None else TOKENIZER,
        extras=conversion.extras,
        notice=conversion.notice,
        versions={
            "multimodal-embedding-serving": version("multimodal-embedding-serving"),
            "openvino": version("openvino"),
            "python": platform.python_version(),
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
