"""The keys of a checkpoint's files, for docs/checkpoint-files.md: from the rules that check."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from multimodal_embedding_serving.checkpoints import (
    adapter,
    keys,
    modules,
    pixel_settings,
    token_settings,
)
from multimodal_embedding_serving.checkpoints.configs import DEFAULTS
from multimodal_embedding_serving.checkpoints.keys import FIXED, HARMLESS, KeyRules
from multimodal_embedding_serving.checkpoints.qwen_config import QWEN3
from scripts.tables import code, table

COMMON = "every model and section"


@dataclass(frozen=True, slots=True)
class Part:
    """One JSON object of a file."""

    file: str
    name: str
    rules: KeyRules


def list_parts() -> Iterator[Part]:
    """Every object whose keys are checked, in the order of the page."""
    yield Part("config.json", COMMON, KeyRules(harmless=HARMLESS, fixed=FIXED))
    for model_type, sections in DEFAULTS.items():
        for section, rules in keys.config_rules(model_type, sections).items():
            where = f"`{model_type}`" + (f", `{section}`" if section else "")
            yield Part("config.json", where, _without_common(rules))
    yield Part("config.json", "`qwen3`", _without_common(keys.decoder_rules(QWEN3)))
    yield Part("config.json", "`qwen3`, `rope_scaling` and `rope_parameters`", keys.ROPE)
    yield from _sections("config.json", "Apple's MobileCLIP", keys.APPLE)
    for model_type, tables in keys.OPEN_CLIP_RULES.items():
        yield from _sections("open_clip_config.json", f"`{model_type}`", tables)
    yield from OTHERS


def _sections(file: str, model: str, tables: Mapping[str, KeyRules]) -> Iterator[Part]:
    for section, rules in tables.items():
        yield Part(file, model + (f", `{section}`" if section else ""), _without_common(rules))


def _without_common(rules: KeyRules) -> KeyRules:
    fixed = {key: value for key, value in rules.fixed.items() if FIXED.get(key) != value}
    return KeyRules(rules.obeyed, rules.harmless - HARMLESS, fixed)


OTHERS = (
    Part("open_clip_config.json", "`preprocess_cfg`", pixel_settings.OPEN_CLIP_RULES),
    Part(
        "open_clip_config.json",
        "`model_cfg.text_cfg.tokenizer_kwargs`",
        token_settings.TOKENIZER_KWARGS,
    ),
    Part("preprocessor_config.json, processor_config.json", "", pixel_settings.RULES),
    Part("tokenizer_config.json, special_tokens_map.json", "", token_settings.RULES),
    Part("modules.json", "each module", KeyRules(modules.MODULE_KEYS, modules.MODULE_NOTES)),
    Part("1_Pooling/config.json", "", modules.POOLING_RULES),
    Part("2_Dense/config.json", "", modules.DENSE_RULES),
    Part("sentence_bert_config.json", "", modules.SENTENCE_BERT_RULES),
    Part("sentence_bert_config.json", "`model_args` and other arguments", modules.ARGUMENTS),
    Part("config_sentence_transformers.json", "", modules.SENTENCE_TRANSFORMERS_RULES),
    Part("adapter_config.json", "", adapter.RULES),
)

REJECTED: tuple[tuple[str, str, Any, str], ...] = (
    ("config.json", "rope_scaling.rope_type", "yarn", "every type but `default`"),
    ("config.json", "layer_types", ["sliding_attention"], "every type but `full_attention`"),
    ("preprocessor_config.json", "do_resize", False, ""),
    ("preprocessor_config.json", "resample", 1, "every filter but 2 and 3"),
    ("preprocessor_config.json", "size", {"longest_edge": 224}, "what is not a square at the end"),
    ("open_clip_config.json", "preprocess_cfg.resize_mode", "longest", ""),
    (
        "open_clip_config.json", "preprocess_cfg.interpolation", "nearest",
        "every filter but bilinear and bicubic",
    ),
    ("open_clip_config.json", "model_cfg.text_cfg.tokenizer_kwargs.clean", "html", ""),
    ("1_Pooling/config.json", "pooling_mode", ["mean", "cls"], "several at once"),
    ("1_Pooling/config.json", "include_prompt", False, ""),
    ("2_Dense/config.json", "activation_function", "torch.nn.Softmax", "not one of six"),
    ("sentence_bert_config.json", "model_args", "x", "what is not an object"),
    (
        "config_sentence_transformers.json", "default_prompt_name", "q",
        "a name that `prompts` does not have",
    ),
)  # fmt: skip
"""File, key, value, what the value stands for: obeyed keys whose value can't be obeyed."""


def keys_table() -> str:
    """Obeyed, harmless, and harmless with one value, for each object of each file."""
    head = ["file", "part", "obeyed", "harmless", "harmless with these values only"]
    rows = (
        [
            ", ".join(map(code, part.file.split(", "))),
            part.name,
            _list(part.rules.obeyed),
            _list(part.rules.harmless),
            "; ".join(_values(key, part.rules.fixed[key]) for key in sorted(part.rules.fixed)),
        ]
        for part in list_parts()
        if part.rules != KeyRules()
    )
    return table(head, rows)


def rejected_table() -> str:
    rows = (
        [code(file), code(key), code(json.dumps(value)), kind]
        for file, key, value, kind in REJECTED
    )
    return table(["file", "key", "for example", "rejected"], rows)


def _list(names: Iterable[str]) -> str:
    return ", ".join(map(code, sorted(names)))


def _values(key: str, values: Iterable[Any]) -> str:
    return f"{code(key)}: {', '.join(code(json.dumps(each)) for each in values)}"
