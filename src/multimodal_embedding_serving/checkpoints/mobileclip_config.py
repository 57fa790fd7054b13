"""The configuration beside MobileCLIP's weights: Apple's own form, or OpenCLIP's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multimodal_embedding_serving.checkpoints.keys import check_apple, check_open_clip
from multimodal_embedding_serving.checkpoints.layouts import Layout


def read_mobileclip_config(config: Mapping[str, Any], layout: Layout) -> Mapping[str, Any]:
    """What the file tells of `side`, `mean`, `std`, `heads` and `causal`; without a file, nothing.

    Raises CheckpointError for keys that are neither obeyed nor harmless.
    """
    if layout.name == "apple" and "model_cfg" not in config:
        told = _read_apple(config)
    else:
        told = _read_open_clip(config, layout.model_type)
    return {name: value for name, value in told.items() if value is not None}


def _read_apple(config: Mapping[str, Any]) -> Mapping[str, Any]:
    check_apple(config)
    image, text = config.get("image_cfg", {}), config.get("text_cfg", {})
    return {
        "side": image.get("image_size"),
        "heads": text.get("n_heads_per_layer"),
        "causal": text.get("causal_masking"),
    }


def _read_open_clip(config: Mapping[str, Any], model_type: str) -> Mapping[str, Any]:
    check_open_clip(config, model_type)
    model, pixels = config.get("model_cfg", {}), config.get("preprocess_cfg", {})
    text = model.get("text_cfg", {})
    return {
        "side": model.get("vision_cfg", {}).get("image_size"),
        "mean": pixels.get("mean"),
        "std": pixels.get("std"),
        "heads": text.get("heads"),
        "causal": not text["no_causal_mask"] if "no_causal_mask" in text else None,
    }
