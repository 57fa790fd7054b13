"""Which family a checkpoint is of, by its tensors and its configuration alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from multimodal_embedding_serving.catalog import ModelSpec
from multimodal_embedding_serving.checkpoints.description import Description
from multimodal_embedding_serving.checkpoints.layouts import Layout, detect, unwrap
from multimodal_embedding_serving.checkpoints.weights import Weights, quote
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import (
    FAMILIES,
    Checkpoint,
    Config,
    Family,
    find_family,
)


class UnrecognizedCheckpoint(CheckpointError):
    """Files of another kind of model: what lies beside them may still be a checkpoint."""


def recognize_checkpoint(
    weights: Weights,
    config: Config | None,
    spec: ModelSpec | None,
    description: Description | None = None,
) -> tuple[str, Checkpoint]:
    """-> (family, its checkpoint with tensors and configuration in the normal form).

    `config` is config.json or open_clip_config.json, where there is one; `description` is what the
    other files say. `spec` is the catalog's row, if any. Raises UnrecognizedCheckpoint (it lists
    what is supported) or CheckpointError: a contradiction between the row, the configuration and
    the tensors, an unknown or missing tensor, or a key that is not supported.
    """
    layout = require_known(weights, config)
    weights = unwrap(weights)
    families = {name: find_family(name) for name in FAMILIES}
    name = next(each for each in families if families[each].model_type == layout.model_type)
    if spec is not None and spec.family != name:
        raise CheckpointError(
            f"{weights.file}: {spec.id} is of the family {spec.family}, "
            f"but the tensors are of {name}"
        )
    read = families[name].read
    if read is None:
        raise TypeError(f"the family {name} has layouts, but no function that reads them")
    checkpoint = read(weights, layout, config, spec)
    return name, replace(checkpoint, description=description or Description())


def require_known(weights: Weights, config: Config | None) -> Layout:
    """The layout of the tensors, before anything else is read. Raises UnrecognizedCheckpoint."""
    families = [find_family(name) for name in FAMILIES]
    weights, model_type = unwrap(weights), (config or {}).get("model_type")
    layout = detect(weights, [layout for each in families for layout in each.layouts])
    if layout is None:
        raise UnrecognizedCheckpoint(_describe_stranger(weights, model_type, families))
    if model_type not in (None, layout.model_type):
        raise UnrecognizedCheckpoint(
            f"{weights.file}: its tensors are those of {layout.model_type!r}, "
            f"but config.json says {str(model_type)[:40]!r}"
        )
    return layout


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
