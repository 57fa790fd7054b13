"""From a plan of towers to a bundle: emit, compress, save, seal, publish."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.bundle import (
    Bundle,
    Manifest,
    TowerManifest,
    locked,
    publishing,
    seal,
)
from multimodal_embedding_serving.families import TowerPlan
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
from multimodal_embedding_serving.types import Modality

STORAGES: Mapping[str, Storage] = {
    "f32": FLOAT32,
    "f16": FLOAT16,
    "int8-weights": INT8_WEIGHTS,
    "int4-weights": INT4_WEIGHTS,
}

TOKENIZER = "tokenizer.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """Everything that a bundle is made of."""

    model: str
    family: str
    precision: str
    plans: Sequence[TowerPlan]
    tokenizer: str | None = None
    """The text of tokenizer.json."""
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    licence: str = ""
    notice: str | None = None
    parity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extras: Mapping[str, float] = dataclasses.field(default_factory=dict)


def build_bundle(
    conversion: Conversion, final: Path, check: Callable[[Bundle], None] | None = None
) -> Bundle:
    """Write the bundle under a temporary name, verify it, `check` it, and rename it to `final`."""
    with locked(final), publishing(final) as folder:
        towers = {plan.modality: _save_tower(plan, conversion, folder) for plan in conversion.plans}
        if conversion.tokenizer is not None:
            (folder / TOKENIZER).write_text(conversion.tokenizer, "utf-8")
        bundle = seal(folder, _manifest(conversion, towers))
        bundle.verify()
        if check is not None:
            check(bundle)
    return Bundle.open(final)


def _save_tower(plan: TowerPlan, conversion: Conversion, folder: Path) -> TowerManifest:
    storage = dataclasses.replace(STORAGES[conversion.precision], **plan.storage)
    model = emit_model(plan.inputs, plan.build, storage)
    name = f"{plan.modality}.xml"
    structure = hash_structure(model)
    ov.save_model(model, folder / name, compress_to_fp16=False)
    return TowerManifest(graph=name, transform=dict(plan.transform), structure=structure)


def _manifest(conversion: Conversion, towers: Mapping[Modality, TowerManifest]) -> Manifest:
    return Manifest(
        model=conversion.model,
        family=conversion.family,
        precision=conversion.precision,
        dimension=conversion.plans[0].dimension,
        towers=towers,
        source=conversion.source,
        licence=conversion.licence,
        tokenizer=None if conversion.tokenizer is None else TOKENIZER,
        parity=conversion.parity,
        extras=conversion.extras,
        notice=conversion.notice,
        versions={
            "multimodal-embedding-serving": version("multimodal-embedding-serving"),
            "openvino": version("openvino"),
            "python": platform.python_version(),
        },
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
