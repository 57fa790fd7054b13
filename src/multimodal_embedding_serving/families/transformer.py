"""Plain transformers: families whose checkpoints need no code but a layout and a config's defaults.

Their layouts are the rows of `checkpoints.layouts.LAYOUTS`, and what config.json leaves out is in
`checkpoints.configs.DEFAULTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from multimodal_embedding_serving.catalog import ModelSpec
from multimodal_embedding_serving.checkpoints.configs import (
    DEFAULTS,
    complete,
    describe,
    translate_open_clip,
)
from multimodal_embedding_serving.checkpoints.keys import check_config
from multimodal_embedding_serving.checkpoints.layouts import LAYOUTS, Layout, rename
from multimodal_embedding_serving.checkpoints.sizes import check_sizes
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import Checkpoint, Config, Family, TowerSpec

OPEN_CLIP = "model_cfg"
"""The key that only open_clip_config.json has, and config.json lacks."""


def transformer(plan: Callable[[Checkpoint], Sequence[TowerSpec]], model_type: str) -> Family:
    """The family of a plain transformer."""
    layouts = [each for each in LAYOUTS if each.model_type == model_type]
    return Family(plan=plan, model_type=model_type, layouts=layouts, read=read_transformer)


def read_transformer(
    weights: Weights, layout: Layout, config: Config | None, spec: ModelSpec | None
) -> Checkpoint:
    """Tensors renamed by their layout's table, sizes checked against the configuration.

    Raises CheckpointError: no configuration, one that contradicts the tensors, or an unknown or
    missing tensor.
    """
    full = _configure(layout.model_type, config, spec)
    if full is None:
        raise CheckpointError(
            f"{weights.file}: no config.json beside it, and the catalog has no row with "
            f"the sizes of this {layout.model_type!r} model"
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
    check_config(config, DEFAULTS[model_type])
    return complete(config, model_type)
