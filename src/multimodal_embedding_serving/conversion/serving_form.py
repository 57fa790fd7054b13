"""The form in which this machine serves a bundle: inference precision and dynamic quantization.

The fastest form that passes the accuracy check is served. `auto` tries finer ones down a ladder:
dynamically quantized activations (only for INT8 or INT4 weights, only where the CPU multiplies in
INT8), then the device's own precision, then the same in f32. A form that a setting names is served
or rejected. The choice lies beside the compiled graphs, under a name specific to this model,
device, processor and OpenVINO version, so that the next start neither searches nor measures.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.backends.openvino import (
    PRECISION_HINTS,
    cache_folder,
    lists_group,
)
from multimodal_embedding_serving.backends.quantization import (
    COMPRESSED,
    QUANTIZATION_GROUP,
    list_instructions,
    multiplies_int8,
)
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.bundles.checksums import open_json, seal_json
from multimodal_embedding_serving.bundles.torch_model import TorchModel
from multimodal_embedding_serving.conversion.parity import (
    Check,
    ParityFailed,
    check_bundle,
    check_parity,
)
from multimodal_embedding_serving.conversion.probes import Probes, probes_of
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Modality, Progress, ignore_progress

log = logging.getLogger(__name__)

FILES = "accuracy-"
VERSION = 2
"""Of the check and of its file: another one measures again."""


@dataclass(frozen=True, slots=True)
class Step:
    """One form that was measured."""

    precision: str
    """As EMBEDDING_PRECISION has it when the graphs are compiled."""
    dynamic_quantization: str
    """on or off"""
    parity: Mapping[str, Any] = field(default_factory=dict)
    failure: str | None = None

    def apply(self, settings: Settings) -> Settings:
        return dataclasses.replace(
            settings, precision=self.precision, dynamic_quantization=self.dynamic_quantization
        )

    def __str__(self) -> str:
        inference = self.precision if self.precision in PRECISION_HINTS else "the device's default"
        return f"inference precision {inference}, dynamic quantization {self.dynamic_quantization}"


@dataclass(frozen=True, slots=True)
class ServingForm:
    """How a model is served here."""

    settings: Settings
    """Those to compile the graphs with: precision and dynamic quantization are decided."""
    parity: Mapping[str, Any]
    notices: tuple[str, ...] = ()


def choose_form(
    model: Bundle | TorchModel, settings: Settings, progress: Progress = ignore_progress
) -> ServingForm:
    """The form that serves a model on this machine: as chosen earlier, or measured now.

    Raises ParityFailed where no form that the settings allow passes, SettingsError.
    """
    if isinstance(model, TorchModel):
        manifest = model.manifest
        decided = dataclasses.replace(settings, precision=manifest.precision)
        notices = () if manifest.notice is None else (manifest.notice,)
        return ServingForm(decided, manifest.parity, notices)
    steps = read_steps(model, settings)
    if steps is None:
        progress("checking accuracy", 0.0)
        probes = {modality: probes_of(model, modality) for modality in model.manifest.towers}
        steps = []
        measure_forms(model, settings, probes, steps)
        save_steps(model, settings, steps)
    form = _form(model, settings, steps)
    for notice in form.notices:
        if notice != model.manifest.notice:
            # A server's log shows it; the output of `mmes embed` is for its vectors.
            log.info("%s", notice)
    return form


def find_notices(bundle: Bundle, settings: Settings) -> tuple[str, ...]:
    """A bundle's notices on this machine, without measuring anything."""
    steps = read_steps(bundle, settings)
    if steps is None:
        return tuple(_notices_of(bundle))
    return _form(bundle, settings, steps).notices


def _notices_of(bundle: Bundle) -> list[str]:
    """Those that hold on every machine."""
    manifest = bundle.manifest
    notices = [manifest.notice] if manifest.notice else []
    if manifest.changes:
        changes = ", and ".join(manifest.changes)
        notices.append(
            f"an earlier version converted this model. Since then, {changes}. "
            f"To convert it again: `mmes convert {manifest.model} --force`; its vectors and "
            "fingerprint may change"
        )
    return notices


def measure_forms(
    bundle: Bundle, settings: Settings, probes: Mapping[Modality, Probes], steps: list[Step]
) -> None:
    """Add a step for each form, up to the first that passes. Raises ParityFailed if none does."""
    _search(bundle, settings, steps, lambda applied: check_bundle(bundle, probes, applied))


def check_conversion(
    plans: Sequence[TowerSpec],
    bundle: Bundle,
    *,
    settings: Settings,
    probes: dict[Modality, Probes],
    steps: list[Step],
    progress: Progress = ignore_progress,
) -> Check:
    """The accuracy check of a conversion: float32 vectors, then a form that comes close to them.

    `probes` and `steps` receive what was measured. Raises ParityFailed.
    """

    def check(applied: Settings) -> Mapping[str, Any]:
        return check_parity(plans, bundle, applied, progress=progress, probes=probes)

    _search(bundle, settings, steps, check)
    return Check(steps[-1].parity, probes)


def _search(
    bundle: Bundle,
    settings: Settings,
    steps: list[Step],
    check: Callable[[Settings], Mapping[str, Any]],
) -> None:
    candidates = list_forms(bundle.manifest.precision, settings)
    for number, step in enumerate(candidates, 1):
        try:
            parity = check(step.apply(settings))
        except ParityFailed as error:
            failure = error.message.partition(";")[0]
            steps.append(dataclasses.replace(step, failure=failure))
            if number == len(candidates):
                raise
            log.warning("%s; trying %s", failure, candidates[number])
        else:
            steps.append(dataclasses.replace(step, parity=parity))
            return


def list_forms(stored: str, settings: Settings) -> list[Step]:
    """The forms that the settings allow for weights stored so, the fastest first."""
    name = settings.precision
    inference = [name] if name in PRECISION_HINTS else [name, "f32"]
    exact = [Step(each, "off") for each in inference]
    if stored not in COMPRESSED or name == "f32" or not lists_group(settings.device):
        return exact
    if settings.dynamic_quantization == "on":
        return [Step(name, "on")]
    if settings.dynamic_quantization == "off" or settings.device != "CPU" or not multiplies_int8():
        return exact
    return [Step(each, form) for each in inference for form in ("on", "off")]


def _form(bundle: Bundle, settings: Settings, steps: Sequence[Step]) -> ServingForm:
    manifest, chosen = bundle.manifest, steps[-1]
    notices = _notices_of(bundle)
    if failures := [step.failure for step in steps if step.failure]:
        notices.append(f"{failures[-1]}; serving with {chosen} instead")
    compressed = manifest.precision in COMPRESSED
    if settings.dynamic_quantization == "on" and not compressed:
        notices.append(
            f"EMBEDDING_DYNAMIC_QUANTIZATION=on has no effect: weights are {manifest.precision}, "
            "and only int8-weights and int4-weights can be multiplied in INT8"
        )
    elif compressed and not lists_group(settings.device):
        notices.append(
            f"{settings.device} has no {QUANTIZATION_GROUP}: whether it quantizes activations "
            "is up to its driver, and EMBEDDING_DYNAMIC_QUANTIZATION has no effect"
        )
    return ServingForm(chosen.apply(settings), {**manifest.parity, **chosen.parity}, tuple(notices))


# ── kept beside the compiled graphs ──
def read_steps(bundle: Bundle, settings: Settings) -> list[Step] | None:
    """What was measured on this machine for these settings; None where nothing was."""
    if not settings.model_cache or not any(_folder(bundle, settings).glob(f"{FILES}*")):
        return None
    try:
        content = open_json(_place(bundle, settings).read_bytes())
        steps = [Step(**each) for each in content["steps"]]
    except OSError:
        return None
    except (ValueError, TypeError, KeyError):
        log.warning("the accuracy figures of this machine are damaged; measuring them again")
        return None
    return steps if steps and steps[-1].failure is None else None


def save_steps(bundle: Bundle, settings: Settings, steps: Sequence[Step]) -> None:
    """Store what was measured; if that fails, the next start measures again."""
    if not settings.model_cache:
        return
    place = _place(bundle, settings)
    content = {
        "model": bundle.manifest.model,
        "instructions": list_instructions(),
        "steps": [dataclasses.asdict(step) for step in steps],
    }
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_suffix(f".{os.getpid()}")
        partial.write_text(seal_json(content), "utf-8")
        partial.replace(place)
    except OSError as error:
        log.warning("could not save the accuracy figures of this machine: %s", error.strerror)


def _folder(bundle: Bundle, settings: Settings) -> Path:
    return cache_folder(bundle.graph(next(iter(bundle.manifest.towers))), settings)


def _place(bundle: Bundle, settings: Settings) -> Path:
    """The file for this model, device, processor and OpenVINO version, and these settings."""
    try:
        processor = ov.Core().get_property(settings.device, "FULL_DEVICE_NAME")
    except RuntimeError:  # virtual devices have no name
        processor = ""
    facts = (
        VERSION, bundle.manifest.fingerprint, settings.device, settings.precision,
        settings.dynamic_quantization, settings.static_length, processor, list_instructions(),
        ov.get_version(),
    )  # fmt: skip
    identity = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    return _folder(bundle, settings) / f"{FILES}{identity}.json"
