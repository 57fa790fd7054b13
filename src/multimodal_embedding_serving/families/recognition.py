"""Which family a checkpoint is of, by its tensors and its configuration alone."""

from __future__ import annotations

from collections.abc import Iterable

from multimodal_embedding_serving.catalog import ModelSpec
from multimodal_embedding_serving.checkpoints.layouts import detect, unwrap
from multimodal_embedding_serving.checkpoints.weights import Weights, quote
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import (
    FAMILIES,
    Checkpoint,
    Config,
    Family,
    find_family,
)


def recognize_checkpoint(
    weights: Weights, config: Config | None, spec: ModelSpec | None
) -> tuple[str, Checkpoint]:
    """-> (family, its checkpoint with tensors and configuration in the normal form).

    `config` is config.json or open_clip_config.json, where there is one; `image_mean` and
    `image_std` of preprocessor_config.json may be merged into it. `spec` is the catalog's row, if
    any. Raises CheckpointError: not recognized (it lists what is), a contradiction between the
    row, the configuration and the tensors, or an unknown or missing tensor.
    """
    weights = unwrap(weights)
    families = {name: find_family(name) for name in FAMILIES}
    layout = detect(weights, [layout for each in families.values() for layout in each.layouts])
    model_type = (config or {}).get("model_type")
    if layout is None:
        raise CheckpointError(_describe_stranger(weights, model_type, families.values()))
    if model_type not in (None, layout.model_type):
        raise CheckpointError(
            f"{weights.file}: its tensors are those of {layout.model_type!r}, "
            f"but config.json says {str(model_type)[:40]!r}"
        )
    name = next(each for each in families if families[each].model_type == layout.model_type)
    if spec is not None and spec.family != name:
        raise CheckpointError(
            f"{weights.file}: {spec.id} is of the family {spec.family}, "
            f"but the tensors are of {name}"
        )
    read = families[name].read
    if read is None:
        raise TypeError(f"the family {name} has layouts, but no function that reads them")
    return name, read(weights, layout, config, spec)


def _describe_stranger(weights: Weights, model_type: object, families: Iterable[Family]) -> str:
    known = "; ".join(
        f"{family.model_type} ({', '.join(dict.fromkeys(each.name for each in family.layouts))})"
        for family in families
        if family.layouts
    )
    suffix = f", model_type {str(model_type)[:40]!r}" if model_type else ""
    example = quote(next(iter(weights), ""))
    return (
        f"{weights.file}: not recognized ({len(weights)} tensors, the first {example}{suffix}). "
        f"Supported, by model_type and layout: {known}"
    )
