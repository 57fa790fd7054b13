"""From a resolved name to a bundle: download, read, build, check, publish."""

from __future__ import annotations

import logging
from functools import partial

from multimodal_embedding_serving.bundles.bundle import STORED, Bundle
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.conversion.blueprint import read_blueprint
from multimodal_embedding_serving.conversion.build import Conversion, build_bundle, require_space
from multimodal_embedding_serving.conversion.calibration import quantize_activations, require_nncf
from multimodal_embedding_serving.conversion.parity import ParityFailed, check_parity
from multimodal_embedding_serving.conversion.resolve import ResolvedModel
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Progress, ignore_progress

log = logging.getLogger(__name__)


def convert(
    resolved: ResolvedModel,
    settings: Settings,
    progress: Progress = ignore_progress,
    access: HubAccess | None = None,
) -> Bundle:
    """Download, convert and check accuracy, replacing an earlier bundle; the caller holds the lock.

    Where INT8 activations fail the accuracy check, weights are stored as f16, with a notice.
    """
    if settings.precision == "int8":
        require_nncf()
    blueprint = read_blueprint(resolved, progress, access)
    stored = settings.precision in STORED
    precision = settings.precision if stored else blueprint.default_precision
    require_space(blueprint.numbers, precision, resolved.model_dir)
    check = partial(check_parity, settings=settings, progress=progress)
    place = resolved.model_dir / precision
    if precision != "int8":
        return build_bundle(Conversion(blueprint, precision), place, check, progress)
    tokenizer = blueprint.tokenizer
    quantize = partial(quantize_activations, tokenizer=tokenizer, settings=settings)
    try:
        return build_bundle(Conversion(blueprint, "int8", quantize), place, check, progress)
    except ParityFailed as error:
        notice = f"serving f16 instead of int8: {error.message.partition(';')[0]}"
    log.warning("%s", notice)
    require_space(blueprint.numbers, "f16", resolved.model_dir)
    floats = Conversion(blueprint, "f16", notice=notice)
    return build_bundle(floats, place, check, progress)
