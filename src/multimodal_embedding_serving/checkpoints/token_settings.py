"""What the files beside a tokenizer say: padding, cleaning of texts, limits.

Sources: transformers' AutoTokenizer (versions 4 and 5) and SiglipTokenizer; OpenCLIP's tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from multimodal_embedding_serving.checkpoints.keys import (
    KeyRules,
    check_keys,
    split,
    unsupported,
)
from multimodal_embedding_serving.checkpoints.pixel_settings import OPEN_CLIP_CONFIG
from multimodal_embedding_serving.errors import CheckpointError, native_errors_as

TOKENIZER_CONFIG, SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"
MAX_LENGTH = 1 << 30
"""Above it, model_max_length is the library's word for no limit."""
SIGLIP = "SiglipTokenizer"
SENTENCEPIECE_END = "</s>"

RULES = KeyRules(
    obeyed=split(
        "pad_token padding_side do_lower_case strip_accents tokenize_chinese_chars",
        "model_max_length tokenizer_class add_eos_token",
    ),
    harmless=split(
        # The tokens are in tokenizer.json, under the same names.
        "bos_token eos_token unk_token sep_token cls_token mask_token additional_special_tokens",
        "extra_special_tokens added_tokens_decoder add_bos_token image_token boi_token eoi_token",
        "model_specific_special_tokens",
        # Files, notes of the library, decoding, chats.
        "name_or_path special_tokens_map_file tokenizer_file vocab_file merges_file backend",
        "processor_class chat_template errors clean_up_tokenization_spaces from_slow",
        "is_local local_files_only legacy use_default_system_prompt spaces_between_special_tokens",
        "sp_model_kwargs model_input_names trim_offsets add_prefix_space extra_ids",
        "tokenizer_type use_fast device_map token_type_ids_pattern return_token_type_ids",
        # Of calls: texts are cut and padded here.
        "max_length stride truncation truncation_strategy padding pad_to_multiple_of",
        "pad_token_type_id pad_token_id",
    ),
    fixed={
        "truncation_side": ("right",),
        "split_special_tokens": (False,),
        "do_basic_tokenize": (True,),
        "never_split": (None, []),
    },
)
TOKENIZER_KWARGS = KeyRules(
    obeyed=split("clean"), fixed={"strip_sep_token": (False,), "mode": (None,)}
)
BERT = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
"""tokenizer_config.json's key -> that of tokenizer.json's BertNormalizer."""


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """What a tokenizer's files say beside tokenizer.json; None: they don't say."""

    pad_token: str | None = None
    padding_side: str | None = None
    max_length: int | None = None
    """Tokens of a text, special tokens included."""
    clean: str = ""
    """How texts are cleaned before the tokenizer: "", siglip or canonicalize (OpenCLIP's)."""
    bert: Mapping[str, bool | None] | None = None
    """Options of WordPiece's normalizer."""
    add_eos: bool = False
    lowercase: bool | None = None


@dataclass(frozen=True, slots=True)
class TokenizerFacts:
    """What a tokenizer does, seen from outside; None: no tokenizer was read."""

    end: int | None = None
    """The id that it appends to a text; None: it appends nothing."""
    pad: int | None = None
    """The id of the pad token that the files name."""
    special: tuple[int, ...] = ()
    """The ids of an empty text."""
    entries: int = 0
    """The largest id and one."""
    names: Mapping[int, str] = field(default_factory=dict)
    """Of the special tokens and the pad token."""


def read_token_settings(documents: Mapping[str, Any]) -> TokenSettings:
    """Of a checkpoint's JSON files by name. Raises CheckpointError naming file, key and value."""
    config = documents.get(TOKENIZER_CONFIG, {})
    check_keys(config, RULES, TOKENIZER_CONFIG)
    named = config
    if "added_tokens_decoder" not in config:  # then the older file wins, as in transformers
        named = {**config, **documents.get(SPECIAL_TOKENS, {})}
    length, side = config.get("model_max_length"), config.get("padding_side")
    bounded = type(length) in (int, float) and 0 < length < MAX_LENGTH
    siglip = config.get("tokenizer_class") == SIGLIP
    return TokenSettings(
        pad_token=_token(named.get("pad_token")),
        padding_side=side if side in ("left", "right") else None,
        max_length=int(length) if bounded else None,
        clean="siglip" if siglip else _open_clip_cleaning(documents),
        bert={BERT[key]: config[key] for key in BERT if type(config.get(key)) is bool},
        lowercase=config.get("do_lower_case"),
        add_eos=config.get("add_eos_token") is True,
    )


def _token(value: object) -> str | None:
    """A token as its text, or as transformers writes an AddedToken."""
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) else None


def _open_clip_cleaning(documents: Mapping[str, Any]) -> str:
    model = documents.get(OPEN_CLIP_CONFIG, {}).get("model_cfg") or {}
    text = model.get("text_cfg") if isinstance(model, Mapping) else None
    kwargs = text.get("tokenizer_kwargs") if isinstance(text, Mapping) else None
    if not isinstance(kwargs, Mapping):
        return ""
    section = "model_cfg.text_cfg.tokenizer_kwargs"
    check_keys(kwargs, TOKENIZER_KWARGS, OPEN_CLIP_CONFIG, section)
    clean = kwargs.get("clean")
    if clean not in (None, "", "lower", "whitespace", "canonicalize"):
        raise unsupported(OPEN_CLIP_CONFIG, f"{section}.clean", clean)
    return "canonicalize" if clean == "canonicalize" else ""


def apply_options(text: str, settings: TokenSettings) -> str:
    """tokenizer.json with WordPiece's options of tokenizer_config.json, which win as in
    transformers; unchanged where they agree."""
    if not settings.bert:
        return text
    content = json.loads(text)
    normalizer = content.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer":
        return text
    changed = {key: each for key, each in settings.bert.items() if normalizer.get(key) != each}
    if not changed:
        return text
    normalizer.update(changed)
    return json.dumps(content, ensure_ascii=False)


def inspect_tokenizer(text: str, settings: TokenSettings) -> TokenizerFacts:
    """What the tokenizer appends and pads with. Raises CheckpointError where it doesn't
    append the end token that it should."""
    with native_errors_as(CheckpointError, "tokenizer.json is not a valid tokenizer"):
        tokenizer = Tokenizer.from_str(text)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        special = tuple(tokenizer.encode("").ids)
        letters = tokenizer.encode("a").ids
    end = letters[-1] if special and letters and letters[-1] == special[-1] else None
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    name = settings.pad_token
    if name is None and end is not None and tokenizer.id_to_token(end) == SENTENCEPIECE_END:
        name = SENTENCEPIECE_END  # as the class of the first SigLIP pads
    pad = None if name is None else vocabulary.get(name)
    if settings.add_eos and end is None:
        raise CheckpointError(
            f"{TOKENIZER_CONFIG}: add_eos_token = True, but tokenizer.json appends no token; save "
            "the tokenizer again with a post-processor that appends it"
        )
    entries = max(vocabulary.values(), default=-1) + 1
    named = (*special, *([] if pad is None else [pad]))
    return TokenizerFacts(
        end, pad, special, entries, {each: str(tokenizer.id_to_token(each)) for each in named}
    )
