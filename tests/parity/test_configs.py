"""Stripped configurations mean what they mean upstream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.checkpoints.configs import (
    DEFAULTS,
    complete,
    describe,
    translate_open_clip,
)
from multimodal_embedding_serving.errors import CheckpointError
from tests.lazy import lazy
from tests.parity.oracles import CLASSES

transformers = lazy("transformers")


def upstream(config: Mapping[str, Any]) -> Any:
    settings = getattr(transformers, CLASSES[config["model_type"]][0])
    return settings.from_dict(dict(config))


def assert_same(config: Mapping[str, Any]) -> None:
    """Every setting that the towers are built from, section by section."""
    ours, theirs = complete(config, config["model_type"]), upstream(config)
    for section, defaults in DEFAULTS[config["model_type"]].items():
        for key in defaults:
            assert ours[section][key] == getattr(getattr(theirs, section), key), (section, key)


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_an_empty_config_is_the_class_default(model_type: str) -> None:
    assert_same({"model_type": model_type})


@pytest.mark.parametrize("model_type", DEFAULTS)
def test_a_section_of_two_keys_keeps_the_other_defaults(model_type: str) -> None:
    sections = list(DEFAULTS[model_type])
    assert_same({"model_type": model_type, sections[0]: {"num_hidden_layers": 2}, sections[1]: {}})


def test_the_older_dict_sections_win_whole_as_upstream() -> None:
    """LAION's files hold both; what the older section leaves out is the default, not the newer."""
    assert_same(
        {
            "model_type": "clip",
            "text_config": {"hidden_act": "quick_gelu", "num_attention_heads": 4},
            "text_config_dict": {"hidden_act": "gelu"},
            "vision_config": {"patch_size": 14},
            "vision_config_dict": None,
        }
    )


def test_a_null_setting_is_the_default() -> None:
    full = complete({"vision_config": {"patch_size": None}, "text_config": None}, "clip")
    assert full["vision_config"]["patch_size"] == 32


def test_sides_given_as_pairs_are_squares() -> None:
    full = complete({"vision_config": {"image_size": [336, 336]}}, "chinese_clip")
    assert full["vision_config"]["image_size"] == 336


OPEN_CLIP_G = {
    "embed_dim": 1024,
    "vision_cfg": {
        "image_size": 224, "layers": 40, "width": 1408, "head_width": 88, "mlp_ratio": 4.3637,
        "patch_size": 14,
    },
    "text_cfg": {
        "context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24
    },
}  # fmt: skip


def test_open_clips_g_14_is_read_from_its_own_configuration() -> None:
    full = translate_open_clip({"model_cfg": OPEN_CLIP_G, "preprocess_cfg": {}}, "clip")
    vision, text = full["vision_config"], full["text_config"]
    assert (vision["num_attention_heads"], vision["intermediate_size"]) == (16, 6144)
    assert (text["num_attention_heads"], text["intermediate_size"]) == (16, 4096)
    assert vision["hidden_act"] == text["hidden_act"] == "gelu"


def test_open_clips_quick_gelu_is_for_both_towers() -> None:
    full = translate_open_clip({"model_cfg": OPEN_CLIP_G | {"quick_gelu": True}}, "clip")
    assert full["vision_config"]["hidden_act"] == full["text_config"]["hidden_act"] == "quick_gelu"


def test_open_clips_own_pixels_are_kept() -> None:
    """L/14 of laion2B was trained with a mean and a deviation of one half."""
    pixels = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    full = translate_open_clip({"model_cfg": OPEN_CLIP_G, "preprocess_cfg": pixels}, "clip")
    assert full["image_mean"] == full["image_std"] == [0.5, 0.5, 0.5]


FOREIGN = [
    ({"vision_cfg": {"attentional_pool": True}}, "vision_cfg.attentional_pool"),
    ({"vision_cfg": {"pool_type": "avg"}}, "vision_cfg.pool_type"),
    ({"vision_cfg": {"timm_model_name": "convnext_base"}}, "vision_cfg.timm_model_name"),
    ({"vision_cfg": {"width": "768"}}, "width = '768' is not valid"),
    ({"vision_cfg": {"head_width": 0}}, "head_width = '0' is not valid"),
    ({"vision_cfg": {"mlp_ratio": None}}, "mlp_ratio = 'None' is not valid"),
    ({"vision_cfg": [12]}, "vision_cfg must be an object"),
    ({"text_cfg": {"layers": -1}}, "layers = '-1' is not valid"),
    ({"text_cfg": {"hf_model_name": "roberta-base"}}, "text_cfg.hf_model_name"),
    ({"text_cfg": {"embed_cls": True}}, "text_cfg.embed_cls"),
    ({"text_cfg": {"no_causal_mask": True}}, "text_cfg.no_causal_mask"),
]


@pytest.mark.parametrize(("part", "named"), FOREIGN)
def test_a_part_that_clip_does_not_have_is_refused(part: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        translate_open_clip({"model_cfg": OPEN_CLIP_G | part}, "clip")


def test_a_siglip_of_another_tower_is_refused_by_its_name() -> None:
    vision = {"timm_model_name": "vit_base_patch16_clip_224", "timm_pool": "map"}
    with pytest.raises(
        CheckpointError, match="'vit_base_patch16_clip_224' is not a supported SigLIP tower"
    ):
        translate_open_clip({"vision_cfg": vision, "text_cfg": {}}, "siglip")


ROWS = [
    ("ViT-B-16", "chinese_clip", 12, 12),
    ("ViT-H-14", "chinese_clip", 16, 16),
    ("ViT-B-16-quickgelu", "clip", 12, 8),
    ("ViT-L-14", "clip", 16, 12),
    ("ViT-H-14", "clip", 16, 16),
    ("ViT-SO400M-16-SigLIP2-384", "siglip", 16, 16),
]


@pytest.mark.parametrize(("architecture", "model_type", "vision", "text"), ROWS)
def test_a_rows_architecture_tells_its_heads(
    architecture: str, model_type: str, vision: int, text: int
) -> None:
    full = describe(architecture, model_type)
    assert full is not None
    assert full["vision_config"]["num_attention_heads"] == vision
    assert full["text_config"]["num_attention_heads"] == text


def test_only_openais_row_has_the_quick_gelu() -> None:
    found = {}
    for name in ("ViT-B-32", "ViT-B-16-quickgelu", "ViT-L-14", "ViT-H-14"):
        full = describe(name, "clip")
        assert full is not None
        found[name] = full["text_config"]["hidden_act"]
    assert [name for name, act in found.items() if act == "quick_gelu"] == ["ViT-B-16-quickgelu"]


def test_an_unknown_architecture_tells_nothing() -> None:
    assert describe("ResNet-50", "clip") is None


def test_a_full_configuration_is_plain_json() -> None:
    full = describe("ViT-L-16-SigLIP2-256", "siglip")
    assert json.loads(json.dumps(full)) == full
    assert not np.isnan(full["vision_config"]["layer_norm_eps"])  # type: ignore[index]
