"""The page that lists the keys of a checkpoint's files says what the code does."""

from __future__ import annotations

from typing import Any

import pytest

from multimodal_embedding_serving.checkpoints import (
    adapter,
    keys,
    modules,
    pixel_settings,
    token_settings,
)
from multimodal_embedding_serving.checkpoints.keys import KeyRules, check_open_clip
from multimodal_embedding_serving.checkpoints.modules import Module, read_module_settings
from multimodal_embedding_serving.checkpoints.pixel_settings import read_pixel_settings
from multimodal_embedding_serving.checkpoints.qwen_config import complete_qwen3
from multimodal_embedding_serving.checkpoints.token_settings import read_token_settings
from multimodal_embedding_serving.errors import CheckpointError
from scripts.keys_table import REJECTED, list_parts

USUAL: dict[str, Any] = {
    "1_Pooling/config.json": {"pooling_mode": "mean"},
    "2_Dense/config.json": {"activation_function": "torch.nn.modules.linear.Identity"},
}
MODULES = [Module("Transformer", ""), Module("Pooling", "1_Pooling"), Module("Dense", "2_Dense")]


def nest(path: str, value: object) -> dict[str, Any]:
    """`a.b` -> {"a": {"b": value}}."""
    first, _, rest = path.partition(".")
    return {first: nest(rest, value) if rest else value}


def read(documents: dict[str, Any]) -> None:
    """All that is checked when a checkpoint is opened."""
    complete_qwen3({"model_type": "qwen3", **documents.get("config.json", {})})
    check_open_clip(documents.get("open_clip_config.json", {"model_cfg": {}}), "clip")
    read_pixel_settings(documents)
    read_token_settings(documents)
    read_module_settings(MODULES, {**USUAL, **documents})


@pytest.mark.parametrize(("file", "key", "value"), [each[:3] for each in REJECTED])
def test_each_example_of_the_page_is_rejected(file: str, key: str, value: object) -> None:
    read({})
    with pytest.raises(CheckpointError) as caught:
        read({file: nest(key, value)})
    assert caught.value.message.startswith(f"{file}: ")
    assert key.rpartition(".")[2] in caught.value.message


def test_the_page_has_all_rules() -> None:
    """Those of config.json are put together from several tables: its models are all there."""
    listed = [each.rules for each in list_parts()]
    for module in (adapter, modules, pixel_settings, token_settings):
        for name, rules in vars(module).items():
            if isinstance(rules, KeyRules):
                assert rules in listed, f"{module.__name__}.{name}"
    names = {each.name.partition(",")[0].strip("`") for each in list_parts()}
    assert {*keys.OPEN_CLIP_RULES, *keys.TOP} <= names
