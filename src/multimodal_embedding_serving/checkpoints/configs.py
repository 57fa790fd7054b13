"""config.json, open_clip_config.json or a catalog row -> one full configuration.

The normal form is transformers' config.json with every default written out: `model_type`, and the
sections `vision_config`, `text_config` (`qformer_config`) with `hidden_size`,
`num_attention_heads`, `hidden_act` and so on. Real files leave out what equals the class default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from multimodal_embedding_serving.checkpoints.keys import check_open_clip
from multimodal_embedding_serving.errors import CheckpointError

Config = Mapping[str, Any]

_CLIP_VISION: Config = MappingProxyType(
    {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 224,
        "patch_size": 32,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
)
_CLIP_TEXT: Config = MappingProxyType(
    {
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "eos_token_id": 49407,
    }
)
_BERT: Config = MappingProxyType(
    {
        "vocab_size": 30522,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }
)
DEFAULTS: Mapping[str, Mapping[str, Config]] = MappingProxyType(
    {
        "clip": {"vision_config": _CLIP_VISION, "text_config": _CLIP_TEXT},
        "chinese_clip": {"vision_config": _CLIP_VISION, "text_config": _BERT},
        "siglip": {
            "vision_config": {
                **_CLIP_VISION,
                "patch_size": 16,
                "hidden_act": "gelu_pytorch_tanh",
                "layer_norm_eps": 1e-6,
            },
            "text_config": {
                "vocab_size": 32000,
                "hidden_size": 768,
                "intermediate_size": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "max_position_embeddings": 64,
                "hidden_act": "gelu_pytorch_tanh",
                "layer_norm_eps": 1e-6,
            },
        },
        "blip-2": {
            "vision_config": {
                "hidden_size": 1408,
                "intermediate_size": 6144,
                "num_hidden_layers": 39,
                "num_attention_heads": 16,
                "image_size": 224,
                "patch_size": 14,
                "hidden_act": "gelu",
                "layer_norm_eps": 1e-6,
            },
            "qformer_config": {**_BERT, "cross_attention_frequency": 2},
        },
    }
)
"""The class defaults of transformers 5.23 (a test compares them), by model_type and section."""


def complete(config: Config, model_type: str) -> dict[str, Any]:
    """transformers' config.json with the defaults written out.

    `vision_config_dict` and `text_config_dict`, which old files hold, win over their sections, as
    they do upstream. Raises CheckpointError where a section is not an object.
    """
    full: dict[str, Any] = {**config, "model_type": model_type}
    for section, defaults in DEFAULTS[model_type].items():
        values = config.get(f"{section}_dict") or config.get(section) or {}
        if not isinstance(values, Mapping):
            raise CheckpointError(f"config.json: {section} must be an object")
        present = {key: value for key, value in values.items() if value is not None}
        full[section] = {**defaults, **present}
        for key, default in defaults.items():
            full[section][key] = _read(full[section][key], default, f"{section}.{key}")
    return full


def _read(value: Any, default: Any, name: str) -> Any:
    """A setting of its default's type; a pair of equal sides becomes one number."""
    if isinstance(value, list) and value and value.count(value[0]) == len(value):
        value = value[0]
    kinds = (int, float) if isinstance(default, float) else type(default)
    least = 0 if name.endswith("_token_id") else 1 if isinstance(default, int) else 0.0
    if not isinstance(value, kinds) or (kinds is not str and not value >= least):
        raise CheckpointError(f"config.json: {name} = {str(value)[:60]!r} is not valid")
    return value


def translate_open_clip(config: Config, model_type: str) -> dict[str, Any]:
    """open_clip_config.json, or its `model_cfg` alone, in the normal form.

    Raises CheckpointError naming a setting that our towers don't have.
    """
    check_open_clip(config, model_type)
    model = _table(config, "model_cfg", config)
    vision, text = _table(model, "vision_cfg"), _table(model, "text_cfg")
    if model_type == "siglip":
        towers = {"vision_config": _timm_vision(vision), "text_config": _siglip_text(text)}
    else:
        activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
        towers = {
            "vision_config": _open_clip_vision(vision) | {"hidden_act": activation},
            "text_config": _open_clip_text(text) | {"hidden_act": activation},
        }
    full = complete(towers, model_type)
    pixels = _table(config, "preprocess_cfg")
    if "mean" in pixels and "std" in pixels:
        full |= {"image_mean": pixels["mean"], "image_std": pixels["std"]}
    return full


def _open_clip_vision(cfg: Config) -> dict[str, Any]:
    width = _size(cfg, "width", 768)
    return {
        "hidden_size": width,
        "intermediate_size": _inner(cfg, width),
        "num_hidden_layers": _size(cfg, "layers", 12),
        "num_attention_heads": width // _size(cfg, "head_width", 64),
        "image_size": cfg.get("image_size", 224),
        "patch_size": _size(cfg, "patch_size", 16),
        "layer_norm_eps": _table(cfg, "norm_kwargs").get("eps", 1e-5),
    }


def _open_clip_text(cfg: Config) -> dict[str, Any]:
    return _text_sizes(cfg) | {"layer_norm_eps": _table(cfg, "norm_kwargs").get("eps", 1e-5)}


def _siglip_text(cfg: Config) -> dict[str, Any]:
    tanh = _table(cfg, "act_kwargs").get("approximate") == "tanh"
    return _text_sizes(cfg) | {
        "hidden_act": "gelu_pytorch_tanh" if tanh else "gelu",
        "layer_norm_eps": _table(cfg, "norm_kwargs").get("eps", 1e-5),
    }


def _text_sizes(cfg: Config) -> dict[str, Any]:
    width, vocabulary = _size(cfg, "width", 512), _size(cfg, "vocab_size", 49408)
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _inner(cfg, width),
        "num_hidden_layers": _size(cfg, "layers", 12),
        "num_attention_heads": _size(cfg, "heads", 8),
        "max_position_embeddings": _size(cfg, "context_length", 77),
        "eos_token_id": vocabulary - 1,  # it pools at the largest id
    }


TIMM_SIZES: Mapping[str, tuple[int, int, int, int]] = MappingProxyType(
    {
        "base": (768, 3072, 12, 12),
        "large": (1024, 4096, 24, 16),
        "so400m": (1152, 4304, 27, 16),
        "giantopt": (1536, 6144, 40, 16),
    }
)
"""timm's SigLIP towers: width, MLP width, layers, heads."""

TIMM_EXACT_GELU = re.compile(r"base_patch16_|large_patch16_siglip_(256|384)|so400m_patch14_")
"""timm 1.0.31 gives these the erf gelu and the others the tanh one that all were trained with.
OpenCLIP is the reference for files in its layout, so its choice holds."""


def _timm_vision(cfg: Config) -> dict[str, Any]:
    name = str(cfg.get("timm_model_name"))
    match = re.fullmatch(r"vit_(\w+?)_patch(\d+)_siglip_(\d+)", name)
    if match is None or match[1] not in TIMM_SIZES:
        raise CheckpointError(
            f"open_clip_config.json: timm_model_name {name!r} is not a supported SigLIP tower"
        )
    width, inner, layers, heads = TIMM_SIZES[match[1]]
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": cfg.get("image_size", int(match[3])),
        "patch_size": int(match[2]),
        "hidden_act": "gelu" if TIMM_EXACT_GELU.search(name) else "gelu_pytorch_tanh",
    }


def _table(cfg: Config, key: str, default: Config = MappingProxyType({})) -> Config:
    value = cfg.get(key) or default
    if not isinstance(value, Mapping):
        raise CheckpointError(f"open_clip_config.json: {key} must be an object")
    return value


def _size(cfg: Config, key: str, default: int) -> int:
    value = cfg.get(key, default)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"open_clip_config.json: {key} = {str(value)[:60]!r} is not valid")
    return value


def _inner(cfg: Config, width: int) -> int:
    """The width between an MLP's two layers."""
    ratio = cfg.get("mlp_ratio", 4.0)
    if not isinstance(ratio, int | float) or not 0 < ratio < 100:
        raise CheckpointError(
            f"open_clip_config.json: mlp_ratio = {str(ratio)[:60]!r} is not valid"
        )
    return int(width * ratio)


# What a row's architecture stands for, where a checkpoint comes without a configuration.

_VITS: Mapping[str, Config] = MappingProxyType(
    {
        "ViT-B-32": {"patch_size": 32},
        "ViT-B-16": {"patch_size": 16},
        "ViT-L-14": {"patch_size": 14, "width": 1024, "layers": 24},
        "ViT-H-14": {"patch_size": 14, "width": 1280, "layers": 32, "head_width": 80},
    }
)
_CLIP_TEXTS: Mapping[str, Config] = MappingProxyType(
    {
        "ViT-L-14": {"width": 768, "heads": 12},
        "ViT-H-14": {"width": 1024, "heads": 16, "layers": 24},
    }
)
_SIGLIP_TOWERS: Mapping[str, tuple[str, Config]] = MappingProxyType(
    {
        "ViT-B-16-SigLIP2": ("vit_base_patch16_siglip_224", {"width": 768, "heads": 12}),
        "ViT-L-16-SigLIP2-256": (
            "vit_large_patch16_siglip_256",
            {"width": 1024, "heads": 16, "layers": 24},
        ),
        "ViT-SO400M-16-SigLIP2-384": (
            "vit_so400m_patch16_siglip_384",
            {"width": 1152, "heads": 16, "layers": 27, "mlp_ratio": 3.7362},
        ),
    }
)


def describe(architecture: str, model_type: str) -> dict[str, Any] | None:
    """The configuration of a catalog row's architecture; None where the row can't tell it."""
    plain = architecture.removesuffix("-quickgelu")
    match model_type:
        case "clip" if plain in _VITS:
            model = {"vision_cfg": _VITS[plain], "text_cfg": _CLIP_TEXTS.get(plain, {})}
            return translate_open_clip(model | {"quick_gelu": plain != architecture}, "clip")
        case "chinese_clip" if plain in _VITS:
            large = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
            large |= {"num_attention_heads": 16}
            text = {"vocab_size": 21128} | (large if plain == "ViT-H-14" else {})
            vision = _open_clip_vision(_VITS[plain])
            return complete({"vision_config": vision, "text_config": text}, model_type)
        case "siglip" if architecture in _SIGLIP_TOWERS:
            return _describe_siglip(*_SIGLIP_TOWERS[architecture])
        case "blip-2" if architecture.startswith("BLIP-2"):
            return complete({"qformer_config": {"vocab_size": 30523}}, model_type)
    return None


def _describe_siglip(timm_name: str, text: Config) -> dict[str, Any]:
    gemma = {"context_length": 64, "vocab_size": 256000}
    trained = {"act_kwargs": {"approximate": "tanh"}, "norm_kwargs": {"eps": 1e-6}}
    vision = {"timm_model_name": timm_name}
    return translate_open_clip(
        {"vision_cfg": vision, "text_cfg": {**gemma, **trained, **text}}, "siglip"
    )
