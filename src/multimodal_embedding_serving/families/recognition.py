"""Which family a checkpoint is of, by its tensors and its configuration alone."""

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
from multimodal_embedding_serving.checkpoints.layouts import (
    LAYOUTS,
    Layout,
    detect,
    rename,
    unwrap,
)
from multimodal_embedding_serving.checkpoints.sizes import check_sizes
from multimodal_embedding_serving.checkpoints.weights import Weights, quote
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import Checkpoint
from multimodal_embedding_serving.families.mobileclip import read_mobileclip
from multimodal_embedding_serving.families.qwen_text import read_qwen

Config = Mapping[str, Any]
OPEN_CLIP = "model_cfg"
"""The key that only open_clip_config.json has, and config.json lacks."""

ReadCheckpoint = Callable[[Weights, Layout, Config | None, ModelSpec | None], Checkpoint]


@dataclass(frozen=True, slots=True)
class Recognizer:
    """How the checkpoints of one `model_type` are recognized and read."""

    family: str
    layouts: Sequence[Layout]
    read: ReadCheckpoint


def recognize_checkpoint(
    weights: Weights, config: Config | None, spec: ModelSpec | None
) -> tuple[str, Checkpoint]:
    """-> (family, its checkpoint with tensors and configuration in the normal form).

    `config` is config.json or open_clip_config.json, where there is one; `image_mean` and
    `image_std` of preprocessor_config.json may be merged into it. `spec` is the catalog's row, if
    any. Raises CheckpointError: not recognised (it lists what is), a contradiction between the
    row, the configuration and the tensors, or an unknown or missing tensor.
    """
    weights = unwrap(weights)
    layout = detect(weights, [each for r in RECOGNIZERS.values() for each in r.layouts])
    model_type = (config or {}).get("model_type")
    if layout is None:
        raise CheckpointError(_describe_stranger(weights, model_type))
    if model_type not in (None, layout.model_type):
        raise CheckpointError(
            f"{weights.file}: its tensors are those of {layout.model_type!r}, "
            f"but config.json says {str(model_type)[:40]!r}"
        )
    recognizer = RECOGNIZERS[layout.model_type]
    if spec is not None and spec.family != recognizer.family:
        raise CheckpointError(
            f"{weights.file}: {spec.id} is of the family {spec.family}, "
            f"but the tensors are of {recognizer.family}"
        )
    return recognizer.family, recognizer.read(weights, layout, config, spec)


def _describe_stranger(weights: Weights, model_type: object) -> str:
    known = "; ".join(
        f"{name} ({', '.join(dict.fromkeys(each.name for each in recognizer.layouts))})"
        for name, recognizer in RECOGNIZERS.items()
    )
    suffix = f", model_type {str(model_type)[:40]!r}" if model_type else ""
    example = quote(next(iter(weights), ""))
    return (
        f"{weights.file}: not recognised ({len(weights)} tensors, the first {example}{suffix}). "
        f"Recognised are, by model_type and layout: {known}"
    )


def read_transformer(
    weights: Weights, layout: Layout, config: Config | None, spec: ModelSpec | None
) -> Checkpoint:
    """CLIP, CN-CLIP, SigLIP, BLIP-2: renamed by table, sizes checked against the configuration."""
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


def _layouts(model_type: str) -> Sequence[Layout]:
    return tuple(each for each in LAYOUTS if each.model_type == model_type)


RECOGNIZERS: Mapping[str, Recognizer] = MappingProxyType(
    {
        "clip": Recognizer("CLIP", _layouts("clip"), read_transformer),
        "chinese_clip": Recognizer("CN-CLIP", _layouts("chinese_clip"), read_transformer),
        "siglip": Recognizer("SigLIP", _layouts("siglip"), read_transformer),
        "blip-2": Recognizer("Blip2", _layouts("blip-2"), read_transformer),
        "mobileclip": Recognizer("MobileCLIP", mobileclip_names.LAYOUTS, read_mobileclip),
        "qwen3": Recognizer("QwenText", qwen_config.LAYOUTS, read_qwen),
    }
)
"""By model_type. A family with rules of its own adds its layouts and its reader here."""
