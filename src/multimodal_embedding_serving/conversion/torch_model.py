"""Opens a checkpoint that torch serves directly: nothing is converted, no weights are stored.

It has everything a bundle has: the same transforms and tokenizer, a fingerprint over structure,
weights, tokenizer and transforms, and an accuracy report where torch computes in 16 bits. The
report is measured once and stored in the model's folder.
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
from multimodal_embedding_serving.conversion.build import Conversion, draft_manifest
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
    """The checkpoint of the model that the settings name, downloaded first where necessary.

    Raises, before anything is downloaded, MissingExtra without torch and SettingsError for a
    device, precision or model that torch cannot serve; afterwards whatever `read_blueprint` raises,
    and BundleError where vectors computed in 16 bits fail the accuracy check.
    """
    from multimodal_embedding_serving.backends.torch import choose_precision

    precision = choose_precision(settings)
    resolved = resolve_model(settings)
    if resolved.bundle is not None:
        raise SettingsError(
            f"the torch backend cannot serve {resolved.model}: it is a converted bundle, whose "
            "graphs only OpenVINO runs; set EMBEDDING_MODEL_NAME to another catalog model, "
            "hf:org/name, or a checkpoint folder, or unset EMBEDDING_USE_OV"
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
    """The manifest with its fingerprint; in float32 that of a bundle with float32 weights."""

    def mark(plan: TowerSpec) -> TowerManifest:
        structure = hash_structure(emit_model(plan.inputs, plan.build, FLOAT32))
        return TowerManifest(graph="", transform=dict(plan.transform), structure=structure)

    towers = map_towers(mark, blueprint.plans, partial(progress, "hashing the weights"))
    manifest = draft_manifest(Conversion(blueprint, precision), towers)
    identity = fingerprint(towers, blueprint.tokenizer, precision)
    return dataclasses.replace(manifest, tokenizer=None, fingerprint=identity)


def find_report(place: Path, model: TorchModel, settings: Settings) -> Mapping[str, Any] | None:
    """The figures measured earlier for this model on this device, or None."""
    try:
        report = json.loads(place.read_bytes())
        return report["parity"] if report["of"] == _subject(model, settings) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_report(
    place: Path, model: TorchModel, settings: Settings, parity: Mapping[str, Any]
) -> None:
    """Store the figures; if that fails, the next start measures them again."""
    text = json.dumps({"of": _subject(model, settings), "parity": parity}, indent=1)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n", "utf-8")
    except OSError as error:
        log.warning("could not save the accuracy report: %s", error.strerror)


def _subject(model: TorchModel, settings: Settings) -> list[str]:
    return [model.manifest.fingerprint, settings.device]
