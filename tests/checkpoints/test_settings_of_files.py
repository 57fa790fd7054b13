"""Every key of a checkpoint's files: obeyed, known to be harmless, or rejected by file and name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from multimodal_embedding_serving.checkpoints.configs import DEFAULTS
from multimodal_embedding_serving.checkpoints.keys import (
    check_apple,
    check_config,
    check_decoder,
    check_open_clip,
    drop_accepted,
)
from multimodal_embedding_serving.checkpoints.modules import (
    Dense,
    Module,
    read_module_settings,
    read_modules,
)
from multimodal_embedding_serving.checkpoints.pixel_settings import (
    PixelSettings,
    read_pixel_settings,
)
from multimodal_embedding_serving.checkpoints.qwen_config import QWEN3
from multimodal_embedding_serving.checkpoints.token_settings import read_token_settings
from multimodal_embedding_serving.errors import CheckpointError
from tests.lazy import lazy

transformers = lazy("transformers")

CLASSES = {
    "clip": "CLIPConfig",
    "chinese_clip": "ChineseCLIPConfig",
    "siglip": "SiglipConfig",
    "blip-2": "Blip2Config",
    "qwen3": "Qwen3Config",
}
OLDER = {"pruned_heads": {}, "torchscript": False, "typical_p": 1.0, "is_decoder": False}
"""Of the defaults that transformers 4 writes into every section."""


def check(model_type: str, config: Mapping[str, Any]) -> None:
    if model_type == "qwen3":
        check_decoder(config, QWEN3)
    else:
        check_config(config, DEFAULTS[model_type])


@pytest.mark.parametrize("model_type", CLASSES)
def test_all_defaults_written_out_are_harmless(model_type: str) -> None:
    """As transformers 5 writes them, and with those that version 4 writes besides."""
    config = getattr(transformers, CLASSES[model_type])().to_dict()
    check(model_type, config)
    sections = {
        key: {**value, **OLDER} if isinstance(value, dict) else value
        for key, value in config.items()
        if key != "rope_parameters"
    }
    check(model_type, {**sections, **OLDER})


@pytest.mark.parametrize(
    ("model_type", "change", "name"),
    [
        ("clip", {"vision_config": {"use_rope": True}}, "vision_config.use_rope"),
        ("clip", {"text_config": {"num_channels": 4}}, "text_config.num_channels"),
        ("clip", {"text_config_dict": {"pooling": "mean"}}, "text_config_dict.pooling"),
        ("clip", {"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ("siglip", {"vision_config": {"vision_use_head": False}}, "vision_use_head"),
        ("chinese_clip", {"text_config": {"position_embedding_type": "relative_key"}}, "relative"),
        ("blip-2", {"qformer_config": {"is_decoder": True}}, "qformer_config.is_decoder"),
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("qwen3", {"rope_scaling": {"partial_rotary_factor": 0.5}}, "rope_scaling.partial_rotary"),
        ("qwen3", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("qwen3", {"residual_scale": 0.3}, "residual_scale = 0.3"),
    ],
)
def test_a_key_that_changes_vectors_is_rejected_by_name(
    model_type: str, change: dict[str, Any], name: str
) -> None:
    with pytest.raises(
        CheckpointError, match=r"^config\.json: .*EMBEDDING_ACCEPT_KEYS=config"
    ) as e:
        check(model_type, {"model_type": model_type, **change})
    assert name in e.value.message


def test_an_accepted_key_is_ignored_and_reported() -> None:
    documents = {"config.json": {"vision_config": {"use_rope": True, "hidden_size": 4}, "x": 1}}
    accept = ("config.json:vision_config.use_rope", "config.json:y", "other.json:x")
    kept, dropped = drop_accepted(documents, accept)
    assert kept["config.json"] == {"vision_config": {"hidden_size": 4}, "x": 1}
    assert dropped == ("config.json:vision_config.use_rope",)
    assert "use_rope" in documents["config.json"]["vision_config"]  # type: ignore[operator]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"multimodal_cfg": {"width": 8}}, "model_cfg.multimodal_cfg"),
        ({"vision_cfg": {"no_ln_pre": True}}, "model_cfg.vision_cfg.no_ln_pre"),
        ({"vision_cfg": {"attn_pooler_heads": 16}}, "attn_pooler_heads"),
        ({"text_cfg": {"hf_model_name": "bert"}}, "model_cfg.text_cfg.hf_model_name"),
    ],
)
def test_a_part_of_open_clip_that_is_not_built_is_rejected(
    model: dict[str, Any], name: str
) -> None:
    with pytest.raises(CheckpointError, match=r"open_clip_config\.json: model_cfg") as caught:
        check_open_clip({"model_cfg": model, "preprocess_cfg": {}}, "clip")
    assert name in caught.value.message


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"audio_cfg": {}}, "audio_cfg"),
        ({"image_cfg": {"in_channels": 4}}, "image_cfg.in_channels"),
        ({"text_cfg": {"norm_layer": "rms_norm"}}, "text_cfg.norm_layer"),
        ({"text_cfg": []}, "text_cfg"),
    ],
)
def test_a_part_of_apples_configuration_that_is_not_built_is_rejected(
    change: dict[str, Any], name: str
) -> None:
    text = {"context_length": 77, "norm_layer": "layer_norm_fp32", "model_name": "mct"}
    check_apple({"embed_dim": 512, "image_cfg": {"image_size": 256}, "text_cfg": text})
    with pytest.raises(CheckpointError, match=r"^config\.json: ") as caught:
        check_apple(change)
    assert name in caught.value.message


def test_open_clips_defaults_written_out_are_harmless() -> None:
    vision = {"pool_type": "tok", "attn_pooler_queries": 256, "output_tokens": False}
    text = {"pool_type": "argmax", "proj_type": "linear", "pad_id": 0, "ls_init_value": None}
    model = {"embed_dim": 512, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
    check_open_clip({"model_cfg": model, "preprocess_cfg": {"mode": "RGB"}}, "clip")


MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
SQUARE = {"height": 40, "width": 40}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"size": 40, "crop_size": 40}, PixelSettings(None, 40)),
        ({"size": 40, "do_center_crop": False}, PixelSettings("squash", 40)),
        ({"size": {"shortest_edge": 40}, "crop_size": SQUARE}, PixelSettings("short_side", 40)),
        ({"size": SQUARE, "resample": 2}, PixelSettings("squash", 40, "bilinear")),
        ({"resample": 3, "image_mean": MEAN}, PixelSettings(resample="bicubic", mean=MEAN)),
        ({"do_normalize": False}, PixelSettings(mean=(0.0,) * 3, std=(1.0,) * 3)),
        ({"rescale_factor": 0.00392156862745098}, PixelSettings()),
    ],
)
def test_an_image_processor_is_obeyed(table: dict[str, Any], expected: PixelSettings) -> None:
    assert read_pixel_settings({"preprocessor_config.json": table}) == expected


def test_another_scale_goes_into_mean_and_deviation() -> None:
    table = {"rescale_factor": 2 / 255, "image_mean": MEAN, "image_std": STD}
    pixels = read_pixel_settings({"preprocessor_config.json": table})
    assert pixels.mean == pytest.approx([0.05, 0.1, 0.15])
    assert pixels.std == pytest.approx([0.2, 0.25, 0.3])


def test_the_processor_of_transformers_5_wins_over_the_older_file() -> None:
    newer = {"image_processor": {"size": SQUARE, "resample": 2}, "processor_class": "CLIPProcessor"}
    older = {"size": {"shortest_edge": 40}, "resample": 3}
    documents = {"processor_config.json": newer, "preprocessor_config.json": older}
    pixels = read_pixel_settings(documents)
    assert (pixels.resize, pixels.resample) == ("squash", "bilinear")
    assert read_pixel_settings({**documents, "processor_config.json": {}}).resize == "short_side"


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ({"do_resize": False}, "do_resize"),
        ({"resample": 1}, "resample = 1"),
        ({"size": {"shortest_edge": 48}, "crop_size": 40}, "size"),
        ({"size": {"shortest_edge": 40}, "do_center_crop": False}, "do_center_crop"),
        ({"size": {"height": 40, "width": 30}}, "size"),
        ({"size": SQUARE, "crop_size": 32, "do_center_crop": True}, "crop_size"),
        ({"do_sharpen": True}, "do_sharpen"),
    ],
)
def test_what_no_image_transform_does_is_rejected(table: dict[str, Any], name: str) -> None:
    with pytest.raises(CheckpointError, match=r"^preprocessor_config\.json: ") as caught:
        read_pixel_settings({"preprocessor_config.json": table})
    assert name in caught.value.message


@pytest.mark.parametrize("cfg", [{"resize_mode": "longest"}, {"interpolation": "nearest"}])
def test_what_open_clip_does_to_images_is_obeyed_or_rejected(cfg: dict[str, Any]) -> None:
    usual = {"resize_mode": "squash", "interpolation": "bilinear", "fill_color": 0, "mode": "RGB"}
    pixels = read_pixel_settings({"open_clip_config.json": {"preprocess_cfg": usual}})
    assert (pixels.resize, pixels.resample) == ("squash", "bilinear")
    with pytest.raises(CheckpointError, match=r"preprocess_cfg\."):
        read_pixel_settings({"open_clip_config.json": {"preprocess_cfg": {**usual, **cfg}}})


def test_the_pad_token_is_read_by_name_from_either_file() -> None:
    older, newer = {"pad_token": {"content": "<a>"}}, {"pad_token": "<b>"}
    documents = {"special_tokens_map.json": older, "tokenizer_config.json": newer}
    assert read_token_settings(documents).pad_token == "<a>"  # noqa: S105
    newer = {**newer, "added_tokens_decoder": {}}  # type: ignore[dict-item]
    assert read_token_settings({**documents, "tokenizer_config.json": newer}).pad_token == "<b>"  # noqa: S105


def test_tokenizer_settings_are_obeyed_or_rejected() -> None:
    file = "tokenizer_config.json"
    table = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 64, "padding_side": "left"}
    tokens = read_token_settings({file: table})
    assert (tokens.clean, tokens.max_length, tokens.padding_side) == ("siglip", 64, "left")
    assert read_token_settings({file: {"model_max_length": 10**30}}).max_length is None
    kwargs = {"text_cfg": {"tokenizer_kwargs": {"clean": "canonicalize"}}}
    assert read_token_settings({"open_clip_config.json": {"model_cfg": kwargs}}).clean
    for key, value in (("truncation_side", "left"), ("split_special_tokens", True), ("noise", 1)):
        with pytest.raises(CheckpointError, match=rf"^tokenizer_config\.json: {key} = "):
            read_token_settings({file: {key: value}})


MODULES = [Module("Transformer", ""), Module("Pooling", "1_Pooling"), Module("Dense", "2_Dense")]


def test_modules_of_sentence_transformers_are_read() -> None:
    listed = [
        {"path": each.path, "type": f"sentence_transformers.models.{each.kind}"} for each in MODULES
    ]
    assert read_modules(listed) == MODULES
    documents = {
        "1_Pooling/config.json": {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 8},
        "2_Dense/config.json": {"activation_function": "torch.nn.modules.activation.ReLU"},
        "sentence_bert_config.json": {
            "max_seq_length": 128, "do_lower_case": False, "model_args": {"dtype": "bfloat16"},
        },
        "config_sentence_transformers.json": {
            "prompts": {"query": "q: ", "passage": "p: "}, "default_prompt_name": None,
        },
    }  # fmt: skip
    settings = read_module_settings(MODULES, documents)
    assert settings.pooling == "mean"
    assert settings.dense == (Dense("2_Dense", "relu"),)
    assert settings.prompts == {"query": "q: ", "document": "p: "}
    assert settings.max_length == 128


@pytest.mark.parametrize(
    ("file", "table", "name"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "pooling_mode"),
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "cls"]}, "pooling_mode"),
        (
            "1_Pooling/config.json",
            {"pooling_mode": "lasttoken", "include_prompt": False},
            "include_prompt",
        ),
        ("2_Dense/config.json", {"activation_function": "torch.nn.Softmax"}, "activation_function"),
        ("sentence_bert_config.json", {"do_lower_case": True}, "do_lower_case"),
        (
            "sentence_bert_config.json",
            {"config_args": {"is_causal": False}},
            "config_args.is_causal",
        ),
        ("sentence_bert_config.json", {"model_args": "x"}, "model_args"),
        ("config_sentence_transformers.json", {"truncate_dim": 64}, "truncate_dim"),
        ("config_sentence_transformers.json", {"default_prompt_name": "q"}, "default_prompt_name"),
    ],
)
def test_what_no_module_does_is_rejected(file: str, table: dict[str, Any], name: str) -> None:
    usual = {"1_Pooling/config.json": {"pooling_mode": "mean"}}
    usual |= {"2_Dense/config.json": {"activation_function": "torch.nn.modules.linear.Identity"}}
    with pytest.raises(CheckpointError) as caught:
        read_module_settings(MODULES, {**usual, file: table})
    assert caught.value.message.startswith(f"{file}: {name} = ")


def test_a_module_without_its_settings_is_rejected() -> None:
    with pytest.raises(CheckpointError, match=r"lists 1_Pooling \(Pooling\), but 1_Pooling/config"):
        read_module_settings(MODULES, {})


@pytest.mark.parametrize("path", ["../x", "a/b"])
def test_modules_stay_in_their_repository(path: str) -> None:
    with pytest.raises(CheckpointError, match="is not a folder beside it"):
        read_modules([{"path": path, "type": "sentence_transformers.models.Transformer"}])
    with pytest.raises(CheckpointError, match="the first module is 'WordEmbeddings'"):
        read_modules([{"path": "", "type": "sentence_transformers.models.WordEmbeddings"}])
