"""Which family a checkpoint is of, told by its tensors and its configuration alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multimodal_embedding_serving.catalog import ModelSpec
from multimodal_embedding_serving.checkpoints.layouts import detect, unwrap
from multimodal_embedding_serving.checkpoints.weights import Weights, quote
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import Checkpoint
from multimodal_embedding_serving.families.registry import FAMILIES

Config = Mapping[str, Any]


def open_checkpoint(
    weights: Weights, config: Config | None, spec: ModelSpec | None
) -> tuple[str, Checkpoint]:
    """-> (family, its checkpoint with tensors and configuration in the normal form).

    `config` is config.json or open_clip_config.json, where there is one; `image_mean` and
    `image_std` of preprocessor_config.json may be merged into it. `spec` is the catalog's row, if
    any. Raises CheckpointError: not recognised (it lists what is), a contradiction between the
    row, the configuration and the tensors, or an unknown or missing tensor.
    """
    weights = unwrap(weights)
    layout = detect(weights, [layout for each in FAMILIES.values() for layout in each.layouts])
    told = (config or {}).get("model_type")
    if layout is None:
        raise CheckpointError(_describe_stranger(weights, told))
    if told not in (None, layout.model_type):
        raise CheckpointError(
            f"{weights.file}: its tensors are those of {layout.model_type!r}, "
            f"but config.json says {str(told)[:40]!r}"
        )
    name = next(each for each in FAMILIES if FAMILIES[each].model_type == layout.model_type)
    if spec is not None and spec.family != name:
        raise CheckpointError(
            f"{weights.file}: {spec.id} is of the family {spec.family}, "
            f"but the tensors are of {name}"
        )
    return name, FAMILIES[name].read(weights, layout, config, spec)


def _describe_stranger(weights: Weights, told: object) -> str:
    known = "; ".join(
        f"{family.model_type} ({', '.join(dict.fromkeys(each.name for each in family.layouts))})"
        for family in FAMILIES.values()
        if family.layouts
    )
    told = f", model_type {str(told)[:40]!r}" if told else ""
    example = quote(next(iter(weights), ""))
    return (
        f"{weights.file}: not recognised ({len(weights)} tensors, the first {example}{told}). "
        f"Recognised are, by model_type and layout: {known}"
    )
