"""From a resolved name to a bundle: download, read, build, check, publish."""

from __future__ import annotations

import logging
from functools import partial

from multimodal_embedding_serving.bundles.bundle import STORED, Bundle
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.conversion.blueprint import Blueprint, read_blueprint
from multimodal_embedding_serving.conversion.build import (
    Conversion,
    Quantize,
    build_bundle,
    require_space,
)
from multimodal_embedding_serving.conversion.calibration import quantize_activations, require_nncf
from multimodal_embedding_serving.conversion.parity import ParityFailed
from multimodal_embedding_serving.conversion.probes import Probes
from multimodal_embedding_serving.conversion.resolve import ResolvedModel
from multimodal_embedding_serving.conversion.serving_form import Step, check_conversion, save_steps
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Modality, Progress, ignore_progress

log = logging.getLogger(__name__)

STORAGE_LADDER = ("int8-weights", "f16", "f32")
"""Stored precisions from coarse to fine. `auto` goes down it; in f32 every sound model passes."""


def convert(
    resolved: ResolvedModel,
    settings: Settings,
    progress: Progress = ignore_progress,
    access: HubAccess | None = None,
) -> Bundle:
    """Download, convert and check accuracy, replacing an earlier bundle; the caller holds the lock.

    Where the model's default precision fails the accuracy check, the next finer one is stored, with
    a notice, and the same holds for INT8 activations. Any other precision that is set by name is
    rejected: raises ParityFailed with the measured cosine.
    """
    if settings.precision == "int8":
        require_nncf()
    blueprint = read_blueprint(resolved, progress, access)
    ladder = list_storages(blueprint, settings)
    probes: dict[Modality, Probes] = {}
    failure = ""
    for number, precision in enumerate(ladder, 1):
        require_space(blueprint.numbers, precision, resolved.model_dir)
        conversion = _plan(blueprint, settings, precision, ladder[0], failure)
        # A bundle for EMBEDDING_PRECISION=int8 is looked up by that name, whatever it holds.
        name = "int8" if settings.precision == "int8" else precision
        steps: list[Step] = []
        check = partial(
            check_conversion, settings=settings, probes=probes, steps=steps, progress=progress
        )
        try:
            bundle = build_bundle(conversion, resolved.model_dir / name, check, progress)
        except ParityFailed as error:
            if number == len(ladder):
                raise
            failure = error.message.partition(";")[0]
            log.warning("%s; storing weights as %s instead", failure, ladder[number])
            continue
        save_steps(bundle, settings, steps)
        return bundle
    raise AssertionError("the ladder is never empty")


def list_storages(blueprint: Blueprint, settings: Settings) -> list[str]:
    """How to store the weights: the default, then what replaces it if its accuracy fails.

    A precision that is set by name has no replacement, except for int8's quantized activations.
    """
    if settings.precision == "int8":
        return ["int8", "f16"]
    if settings.precision in STORED:
        return [settings.precision]
    default = blueprint.default_precision
    finer = STORAGE_LADDER[STORAGE_LADDER.index(default) + 1 :]
    return [default, *finer] if settings.precision == "auto" else [default]


def _plan(
    blueprint: Blueprint, settings: Settings, precision: str, default: str, failure: str
) -> Conversion:
    """A conversion to `precision`, in place of `default` where that has a failure."""
    quantize: Quantize | None = None
    if precision == "int8":
        quantize = partial(quantize_activations, tokenizer=blueprint.tokenizer, settings=settings)
    notice = f"serving {precision} instead of {default}: {failure}" if failure else None
    fallback = default if failure else None
    return Conversion(blueprint, precision, quantize, notice=notice, fallback_from=fallback)
