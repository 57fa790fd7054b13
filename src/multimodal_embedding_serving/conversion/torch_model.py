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
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.bundles.bundle import (
    Manifest,
    TowerManifest,
    fingerprint,
)
from multimodal_embedding_serving.bundles.checksums import open_json, seal_json
from multimodal_embedding_serving.bundles.torch_model import TorchModel
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.conversion.blueprint import Blueprint, read_blueprint
from multimodal_embedding_serving.conversion.build import Conversion, draft_manifest
from multimodal_embedding_serving.conversion.parallel import map_towers
from multimodal_embedding_serving.conversion.parity import ParityFailed, check_parity
from multimodal_embedding_serving.conversion.resolve import ResolvedModel, resolve_model
from multimodal_embedding_serving.errors import CheckpointError, SettingsError
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
    and ParityFailed where 16 bits that are set by name fail the accuracy check.
    """
    from multimodal_embedding_serving.backends.torch import choose_precision

    precision = choose_precision(settings)
    resolved = resolve_model(settings)
    _require_checkpoint(resolved)
    blueprint = read_blueprint(resolved, progress, access)
    manifest = identify(blueprint, precision, progress)
    check_identity(resolved, blueprint, manifest)
    towers = {each.modality: each for each in blueprint.plans}
    model = TorchModel(towers, manifest, blueprint.tokenizer)
    if precision == "f32":
        return model
    place = resolved.model_dir / f"torch-{precision}.json"
    return _check_accuracy(place, blueprint, model, settings, progress)


def _check_accuracy(
    place: Path, blueprint: Blueprint, model: TorchModel, settings: Settings, progress: Progress
) -> TorchModel:
    """The model with the result of its accuracy check, which is kept in the file `place`; in f32
    if it fails and the settings leave the choice. Raises ParityFailed if they don't."""
    report = find_report(place, model, settings)
    if report is None:
        report = _measure(blueprint, model, settings, progress)
        if settings.precision == "auto" or "failure" not in report:
            write_report(place, model, settings, report)
    if "failure" not in report:
        manifest = dataclasses.replace(model.manifest, parity=report["parity"])
        return dataclasses.replace(model, manifest=manifest)
    if settings.precision != "auto":
        raise ParityFailed(f"{report['failure']}; use a higher EMBEDDING_PRECISION")
    notice = f"{report['failure']}; serving with inference precision f32 instead"
    log.warning("%s", notice)
    manifest = dataclasses.replace(identify(blueprint, "f32", progress), notice=notice)
    return dataclasses.replace(model, manifest=manifest)


def _require_checkpoint(resolved: ResolvedModel) -> None:
    if resolved.bundle is not None:
        raise SettingsError(
            f"the torch backend cannot serve {resolved.model}: it is a converted bundle, whose "
            "graphs only OpenVINO runs; set EMBEDDING_MODEL_NAME to another catalog model, "
            "hf:org/name, or a checkpoint folder, or unset EMBEDDING_USE_OV"
        )


def _measure(
    blueprint: Blueprint, model: TorchModel, settings: Settings, progress: Progress
) -> dict[str, Any]:
    """{"parity": figures}, or {"failure": the figure that missed its bound}."""
    try:
        figures = check_parity(blueprint.plans, model, settings, progress=progress)
    except ParityFailed as error:
        return {"failure": error.message.partition(";")[0]}
    return {"parity": figures}


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


def check_identity(resolved: ResolvedModel, blueprint: Blueprint, manifest: Manifest) -> None:
    """Compare the fingerprint, which covers every weight, with that of the first opening.

    The same files of the same checkpoint can only have another one if a bit of them has changed:
    a checkpoint with other names, sizes or times has another folder of models. Raises
    CheckpointError.
    """
    place = resolved.model_dir / f"torch-{manifest.precision}-identity.json"
    row = resolved.spec
    elsewhere = resolved.tokenizer or (row and row.tokenizer_repo)  # it may change by itself
    subject = {
        "source": dict(blueprint.source),
        "tokenizer": sha256((blueprint.tokenizer or "").encode()).hexdigest() if elsewhere else "",
        "rules": manifest.rules,
        "version": version("multimodal-embedding-serving"),
    }
    try:
        recorded = open_json(place.read_bytes())
    except (OSError, ValueError):
        recorded = {}
    own = {**subject, "fingerprint": manifest.fingerprint}
    if recorded == json.loads(json.dumps(own)):
        return
    first = recorded.pop("fingerprint", None)
    if first is not None and recorded == json.loads(json.dumps(subject)):
        raise CheckpointError(
            f"{blueprint.model}: the checkpoint is damaged: the same files had the fingerprint "
            f"{first} and have {manifest.fingerprint} now; download or copy it again"
        )
    _save(place, seal_json(own), "the fingerprint")


def _save(place: Path, text: str, what: str) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, "utf-8")
    except OSError as error:
        log.warning("could not save %s: %s", what, error.strerror)


def find_report(place: Path, model: TorchModel, settings: Settings) -> Mapping[str, Any] | None:
    """What `_measure` returned earlier for this model on this device, or None."""
    try:
        report = open_json(place.read_bytes())
        known = report["of"] == _subject(model, settings) and (
            "parity" in report or "failure" in report
        )
        return report if known else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_report(
    place: Path, model: TorchModel, settings: Settings, report: Mapping[str, Any]
) -> None:
    """Store the figures; if that fails, the next start measures them again."""
    text = seal_json({"of": _subject(model, settings), **report})
    _save(place, text, "the accuracy report")


def _subject(model: TorchModel, settings: Settings) -> list[str]:
    return [model.manifest.fingerprint, settings.device]
