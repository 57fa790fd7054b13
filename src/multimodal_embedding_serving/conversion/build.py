"""From a blueprint to a bundle: emit, compress, check parity, seal, publish."""

from __future__ import annotations

import dataclasses
import logging
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

from multimodal_embedding_serving.bundles.bundle import (
    Bundle,
    Manifest,
    TowerManifest,
    publishing,
    seal,
    settle,
)
from multimodal_embedding_serving.conversion.blueprint import Blueprint
from multimodal_embedding_serving.conversion.parallel import map_towers
from multimodal_embedding_serving.conversion.parity import Check
from multimodal_embedding_serving.conversion.probes import with_probes
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.families import CHANGES, TowerSpec
from multimodal_embedding_serving.graph.identity import hash_structure
from multimodal_embedding_serving.graph.openvino_ops import (
    FLOAT16,
    FLOAT32,
    INT4_WEIGHTS,
    INT8_WEIGHTS,
    Storage,
    emit_model,
)
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.monitoring.memory import MemoryPeak
from multimodal_embedding_serving.types import Modality, Progress, ignore_progress

log = logging.getLogger(__name__)

STORAGES: Mapping[str, Storage] = {
    "f32": FLOAT32,
    "f16": FLOAT16,
    "int8-weights": INT8_WEIGHTS,
    "int4-weights": INT4_WEIGHTS,
    "int8": FLOAT16,  # for the constants that quantization leaves in floating point
}
BYTES_EACH = {"f32": 4.0, "f16": 2.0, "int8-weights": 1.05, "int4-weights": 0.75, "int8": 1.5}
"""Bytes for each stored number, including scales and the parts that stay in floating point."""

TOKENIZER = "tokenizer.json"

CheckParity = Callable[[Sequence[TowerSpec], Bundle], Check]
Quantize = Callable[[TowerSpec, ov.Model], ov.Model]


@dataclass(frozen=True, slots=True)
class Conversion:
    """What a bundle is made from: a model, and how its weights will be stored."""

    blueprint: Blueprint
    precision: str
    quantize: Quantize | None = None
    """Turns a float32 graph into an int8 one."""
    notice: str | None = None
    """A remark for users of the bundle, which the server reports."""
    fallback_from: str | None = None
    """The precision that failed the accuracy check and that this one replaces."""


def build_bundle(
    conversion: Conversion,
    final: Path,
    check_parity: CheckParity | None = None,
    progress: Progress = ignore_progress,
) -> Bundle:
    """Write the bundle under a temporary name, check its parity, and rename it to `final`.

    The caller that shares the folder with other processes holds `locked(final)`. Whatever raises,
    `check_parity` too, leaves what was at `final` as it was. Raises BundleError.
    """
    blueprint = conversion.blueprint
    building, checking = MemoryPeak(), MemoryPeak()
    try:
        with publishing(final) as folder:
            if blueprint.tokenizer is not None:
                (folder / TOKENIZER).write_text(blueprint.tokenizer, "utf-8")
            with building:
                towers = _save_towers(conversion, folder, progress)
            manifest = draft_manifest(conversion, towers)
            with ThreadPoolExecutor(1) as pool:
                files = pool.submit(settle, folder)
                if check_parity is not None:
                    with checking:
                        check = check_parity(blueprint.plans, Bundle(folder, manifest))
                    manifest = with_probes(manifest, check.probes)
                    manifest = dataclasses.replace(manifest, parity=dict(check.parity))
            progress("publishing the bundle", 0.0)
            seal(folder, manifest, files.result())
    except OSError as error:
        raise BundleError(f"could not write the bundle: {error.strerror}") from error
    bundle = Bundle.load(final)
    log.info(
        "converted %s to %s: %.0f MB; building took %.1f s and %.0f MB of private memory, "
        "the accuracy check %.1f s and %.0f MB",
        blueprint.model, conversion.precision, bundle.size / 1e6, building.seconds,
        building.bytes / 1e6, checking.seconds, checking.bytes / 1e6,
    )  # fmt: skip
    return bundle


def require_space(numbers: int, precision: str, folder: Path) -> None:
    """Check the free disk space before anything is written; `numbers` counts the weights.

    Raises BundleError with the size needed and the size free.
    """
    needed = int(numbers * BYTES_EACH[precision])
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BundleError(
            f"the bundle needs {megabytes(needed)}, but the disk of the models folder has only "
            f"{megabytes(free)} free; free some space (mmes models --prune removes unused files) "
            "or set EMBEDDING_OV_MODELS_DIR to a folder on a larger disk"
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
        except RuntimeError as error:  # from its stream, without the reason
            room = megabytes(shutil.disk_usage(folder).free)
            raise BundleError(
                f"could not write {name}: the disk of the models folder has {room} free"
            ) from error
        return TowerManifest(graph=name, transform=dict(plan.transform), structure=structure)

    report = partial(progress, "building the graphs")
    plans = conversion.blueprint.plans
    return map_towers(save, plans, report, together=conversion.quantize is None)


def draft_manifest(conversion: Conversion, towers: Mapping[Modality, TowerManifest]) -> Manifest:
    """The manifest without what is added later: accuracy figures, file hashes, fingerprint."""
    blueprint = conversion.blueprint
    return Manifest(
        model=blueprint.model,
        family=blueprint.family,
        precision=conversion.precision,
        dimension=blueprint.plans[0].dimension,
        min_dimension=blueprint.min_dimension,
        towers=towers,
        source=blueprint.source,
        licence=blueprint.licence,
        tokenizer=None if blueprint.tokenizer is None else TOKENIZER,
        extras=blueprint.extras,
        notice=conversion.notice,
        rules=len(CHANGES.get(blueprint.family, ())),
        fallback_from=conversion.fallback_from,
        versions={
            "multimodal-embedding-serving": version("multimodal-embedding-serving"),
            "openvino": version("openvino"),
            "python": platform.python_version(),
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
