"""The families: one row each, by the name that the catalog's rows have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from multimodal_embedding_serving.catalog import ModelSpec
from multimodal_embedding_serving.checkpoints import mobileclip_names, qwen_config
from multimodal_embedding_serving.checkpoints.configs import (
    complete,
    describe,
    translate_open_clip,
)
from multimodal_embedding_serving.checkpoints.layouts import LAYOUTS, Layout, rename
from multimodal_embedding_serving.checkpoints.sizes import check_sizes
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.errors import CheckpointError, FamilyNotBuilt
from multimodal_embedding_serving.families import (
    BuildTowers,
    Checkpoint,
    blip2,
    builtin,
    clip,
    cn_clip,
    mobileclip,
    qwen_text,
    siglip,
)

Config = Mapping[str, Any]
OPEN_CLIP = "model_cfg"
"""The key that tells open_clip_config.json from config.json."""

ReadCheckpoint = Callable[[Weights, Layout, Config | None, ModelSpec | None], Checkpoint]


def read_transformer(
    weights: Weights, layout: Layout, config: Config | None, spec: ModelSpec | None
) -> Checkpoint:
    """A plain transformer: renamed by its layout's table, sizes held against the configuration.

    Raises CheckpointError: no configuration, one that contradicts the tensors, or an unknown or
    missing tensor.
    """
    full = _configure(layout.model_type, config, spec)
    if full is None:
        raise CheckpointError(
            f"{weights.file}: no config.json beside it, and no row of the catalog to tell the "
            f"sizes of this {layout.model_type!r} model"
        )
    renamed = rename(weights, layout)
    check_sizes(renamed, full)
    return Checkpoint(renamed, full, spec)


def _configure(
    model_type: str, config: Config | None, spec: ModelSpec | None
) -> dict[str, Any] | None:
    if not config:
        return describe(spec.architecture, model_type) if spec else None
    if OPEN_CLIP in config:
        return translate_open_clip(config, model_type)
    return complete(config, model_type)


@dataclass(frozen=True, slots=True)
class Family:
    """How one family's checkpoints are recognized, read, and made into towers."""

    plan: BuildTowers
    model_type: str | None = None
    """As config.json calls it; None: no checkpoint is of this family."""
    layouts: Sequence[Layout] = ()
    """The forms that its checkpoints come in."""
    read: ReadCheckpoint = read_transformer


def _transformer(plan: BuildTowers, model_type: str) -> Family:
    """A family that needs no code beyond its plan: its layouts and its configuration's defaults are
    the rows of `checkpoints.layouts.LAYOUTS` and `checkpoints.configs.DEFAULTS`."""
    return Family(plan, model_type, [each for each in LAYOUTS if each.model_type == model_type])


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "Builtin": Family(builtin.plan),
        "CLIP": _transformer(clip.plan, "clip"),
        "CN-CLIP": _transformer(cn_clip.plan, "chinese_clip"),
        "SigLIP": _transformer(siglip.plan, "siglip"),
        "Blip2": _transformer(blip2.plan, "blip-2"),
        "MobileCLIP": Family(
            mobileclip.plan, "mobileclip", mobileclip_names.LAYOUTS, mobileclip.open_mobileclip
        ),
        "QwenText": Family(qwen_text.plan, "qwen3", qwen_config.LAYOUTS, qwen_text.open_qwen),
    }
)
"""The catalog's family -> how it is built. The first family whose layout fits a file is taken."""


def find_family(name: str) -> BuildTowers:
    """The family's `plan`. Raises FamilyNotBuilt where this version has none."""
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise FamilyNotBuilt(f"the family {name!r} is not built in this version; built: {known}")
    return FAMILIES[name].plan
