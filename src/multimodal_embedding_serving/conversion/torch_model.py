"""Opening a checkpoint that is served as it is, by torch: nothing is converted, nothing is stored.

It has what a bundle has: the same transforms and tokenizer, a fingerprint over structure, weights,
tokenizer and transforms, and, where torch computes in 16 bits, an accuracy report. The report is
measured once and stored in the model's folder.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.bundles.bundle import (
    Manifest,
    TowerManifest,
    fingerprint,
)
from multimodal_embedding_serving.bundles.torch_model import TorchModel
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.conversion.blueprint import Blueprint, read_blueprint
from multimodal_embedding_serving.conversion.build import Conversion, draw_manifest
from multimodal_embedding_serving.conversion.parallel import map_towers
from multimodal_embedding_serving.conversion.parity import check_parity
from multimodal_embedding_serving.conversion.resolve import resolve_model
from multimodal_embedding_serving.errors import SettingsError
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.graph.identity import hash_structure
from multimodal_embedding_serving.graph.openvino_ops import FLOAT32, emit_model
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Progress, ignore_progress

log = logging.getLogger(__name__)


def load_torch_model(
    settings: Settings, progress: Progress = ignore_progress, access: HubAccess | None = None
) -> TorchModel:
    """The checkpoint of the model that the settings name, downloaded first if need be.

    Raises MissingExtra without torch, SettingsError for a device, a precision or a model that
    torch can't serve, all before anything is downloaded; then what `read_blueprint` does, and
    BundleError where 16 bits are not near enough to float32.
    """
    from multimodal_embedding_serving.backends.torch import choose_precision

    precision = choose_precision(settings)
    resolved = resolve_model(settings)
    if resolved.bundle is not None:
        raise SettingsError(
            f"EMBEDDING_USE_OV='false' can't serve {resolved.model}: it is converted already, and "
            "torch can't run OpenVINO's graphs; set EMBEDDING_MODEL_NAME to another model, "
            "hf:org/name, or the folder of a checkpoint, or leave EMBEDDING_USE_OV unset"
        )
    blueprint = read_blueprint(resolved, progress, access)
    manifest = identify(blueprint, precision, progress)
    plans = {plan.modality: plan for plan in blueprint.plans}
    model = TorchModel(plans, manifest, blueprint.tokenizer)
    if precision == "f32":
        return model
    place = resolved.model_dir / f"torch-{precision}.json"
    parity = find_report(place, model, settings)
    if parity is None:
        parity = check_parity(blueprint.plans, model, settings, progress=progress)
        write_report(place, model, settings, parity)
    return dataclasses.replace(model, manifest=dataclasses.replace(manifest, parity=parity))


def identify(
    blueprint: Blueprint, precision: str, progress: Progress = ignore_progress
) -> Manifest:
    """The manifest, fingerprint included: in float32 that of the bundle of float32 weights."""

    def mark(plan: TowerSpec) -> TowerManifest:
        structure = hash_structure(emit_model(plan.inputs, plan.build, FLOAT32))
        return TowerManifest(graph="", transform=dict(plan.transform), structure=structure)

    towers = map_towers(mark, blueprint.plans, partial(progress, "hashing the weights"))
    manifest = draw_manifest(Conversion(blueprint, precision), towers)
    identity = fingerprint(towers, blueprint.tokenizer, precision)
    return dataclasses.replace(manifest, tokenizer=None, fingerprint=identity)


def find_report(place: Path, model: TorchModel, settings: Settings) -> Mapping[str, Any] | None:
    """The figures measured for this very model on this device, if there are any."""
    try:
        report = json.loads(place.read_bytes())
        return report["parity"] if report["of"] == _subject(model, settings) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_report(
    place: Path, model: TorchModel, settings: Settings, parity: Mapping[str, Any]
) -> None:
    """Store the figures; where that fails, the next start measures them again."""
    text = json.dumps({"of": _subject(model, settings), "parity": parity}, indent=1)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n", "utf-8")
    except OSError as error:
        log.warning("the certificate can't be kept: %s", error.strerror)


def _subject(model: TorchModel, settings: Settings) -> list[str]:
    return [model.manifest.fingerprint, settings.device]
