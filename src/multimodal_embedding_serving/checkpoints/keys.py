"""Every key of a checkpoint's JSON files: obeyed, known not to change a vector, or rejected.

A key that nobody knows may change what the upstream library computes, and the vectors would be
wrong without any sign. A user who knows better accepts it by name (EMBEDDING_ACCEPT_KEYS).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multimodal_embedding_serving.checkpoints.weights import quote
from multimodal_embedding_serving.errors import CheckpointError

log = logging.getLogger(__name__)

Table = Mapping[str, Any]
MAX_SHOWN = 60
"""Characters of a value that an error repeats."""


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What may be in one JSON object."""

    obeyed: frozenset[str] = frozenset()
    """Keys that are read elsewhere."""
    harmless: frozenset[str] = frozenset()
    """Keys that change no vector, whatever their value."""
    fixed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Keys that change no vector at these values: what the graphs compute anyway."""


def check_keys(table: Table, rules: KeyRules, file: str, section: str = "") -> None:
    """Reject the first key of `table` that no rule covers. Keys that begin with `_` are notes of
    the library that wrote the file. Raises CheckpointError."""
    for key, value in table.items():
        if key.startswith("_") or key in rules.obeyed or key in rules.harmless:
            continue
        if key not in rules.fixed or not _among(value, rules.fixed[key]):
            raise unsupported(file, f"{section}.{key}" if section else key, value)


def unsupported(
    file: str, key: str, value: object, reason: str = "is not supported"
) -> CheckpointError:
    """The error for a key that would change the vectors; it says how to go on."""
    shown = repr(value)
    shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}…"
    return CheckpointError(
        f"{file}: {quote(key)[1:-1]} = {shown} {reason}; if the vectors do not depend on it, set "
        f"EMBEDDING_ACCEPT_KEYS={file}:{quote(key)[1:-1]} to ignore it"
    )


def drop_accepted(
    documents: Mapping[str, Table], accept: Collection[str]
) -> tuple[Mapping[str, Table], Sequence[str]]:
    """JSON files by name -> the same without the keys that the user accepts (`file:key.inner`,
    which are ignored), and those that were there."""
    result, dropped = dict(documents), []
    for name in accept:
        file, _, path = name.partition(":")
        if file in result and path:
            table = _without(result[file], path.split("."))
            if table is not None:
                result[file] = table
                dropped.append(name)
                log.warning("%s: %s is ignored, as EMBEDDING_ACCEPT_KEYS asks", file, path)
    return result, tuple(sorted(dropped))


def _without(table: Table, path: Sequence[str]) -> Table | None:
    """A copy without the key at `path`; None where there is none."""
    key, *rest = path
    if key not in table:
        return None
    if not rest:
        return {name: value for name, value in table.items() if name != key}
    inner = _without(table[key], rest) if isinstance(table[key], Mapping) else None
    return None if inner is None else {**table, key: inner}


def _among(value: object, allowed: tuple[Any, ...]) -> bool:
    return any(type(value) is type(each) and value == each for each in allowed)


def split(*lines: str) -> frozenset[str]:
    return frozenset(_words(lines))


def _words(lines: Collection[str]) -> Iterator[str]:
    for line in lines:
        yield from line.split()


# Keys of transformers' PretrainedConfig, versions 4 and 5, that no embedding depends on.

GENERATION = split(
    "max_length min_length do_sample early_stopping num_beams num_beam_groups diversity_penalty",
    "temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores use_cache",
    "return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values",
    "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens cache_implementation",
    "decoder_start_token_id prefix",
)
TRAINING = split(
    "attention_dropout dropout hidden_dropout_prob attention_probs_dropout_prob hidden_dropout",
    "classifier_dropout initializer_range initializer_factor gradient_checkpointing problem_type",
    "finetuning_task id2label label2id num_labels task_specific_params logit_scale_init_value",
    "pretraining_tp loss_type",
)
PROVENANCE = split(
    "architectures transformers_version torch_dtype dtype model_type tokenizer_class name_or_path",
    "license tags language library_name unsloth_version unsloth_fixed",
)
OUTPUT = split(
    "output_attentions output_hidden_states return_dict torchscript use_bfloat16 tf_legacy_loss",
    "tie_encoder_decoder tie_word_embeddings chunk_size_feed_forward attn_implementation",
)
TOKENS = split("bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id")
"""The tokenizer's files decide these."""
SHAPES = split("projection_dim")
"""The tensors have them."""
HARMLESS = GENERATION | TRAINING | PROVENANCE | OUTPUT | TOKENS | SHAPES
FIXED: Mapping[str, tuple[Any, ...]] = {
    "pruned_heads": ({}, None),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "quantization_config": (None,),
    "position_embedding_type": ("absolute", None),
    "num_channels": (3,),
}
"""Harmless at the class default, which older versions write out."""

SECTIONS: Mapping[str, KeyRules] = {
    "vision_config": KeyRules(fixed={"vision_use_head": (True,), "qkv_bias": (True,)}),
    "text_config": KeyRules(
        harmless=split(
            "projection_size type_vocab_size directionality pooler_fc_size",
            "pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type",
        )
    ),
    # Whether there are layers for texts: the tensors tell.
    "qformer_config": KeyRules(harmless=split("encoder_hidden_size use_qformer_text_input")),
}
TOP: Mapping[str, KeyRules] = {
    "chinese_clip": KeyRules(harmless=split("vision_model_type text_model_type")),
    "blip-2": KeyRules(
        harmless=split(
            "num_query_tokens image_text_hidden_size image_token_index image_token_id",
            "use_decoder_only_language_model text_config",  # the language model is not built
        )
    ),
    "qwen3": KeyRules(
        obeyed=split("rope_theta rope_scaling rope_parameters"),
        # Of a window that is not used; the tensors tell about biases.
        harmless=split("sliding_window max_window_layers attention_bias"),
        fixed={"use_sliding_window": (False,)},
    ),
}
ROPE = KeyRules(
    obeyed=split("rope_theta rope_type type"),
    fixed={"factor": (1.0, 1), "partial_rotary_factor": (1.0, 1)},
)


OPEN_CLIP: Mapping[str, KeyRules] = {
    "": KeyRules(obeyed=split("model_cfg preprocess_cfg")),
    "model_cfg": KeyRules(
        obeyed=split("vision_cfg text_cfg quick_gelu"),
        # The tensors tell the dimension and the layout; the rest is of training.
        harmless=split(
            "embed_dim custom_text init_logit_scale init_logit_bias output_dict cast_dtype",
            "nonscalar_logit_scale",
        ),
    ),
    "vision_cfg": KeyRules(
        obeyed=split("image_size layers width head_width mlp_ratio patch_size norm_kwargs"),
        harmless=split(
            "patch_dropout timm_drop timm_drop_path timm_model_pretrained output_tokens"
        ),
        fixed={
            "pool_type": ("tok",),
            "pos_embed_type": ("learnable",),
            "attn_pooler_queries": (256,),
            "attn_pooler_heads": (8,),
        },
    ),
    "text_cfg": KeyRules(
        obeyed=split(
            "context_length vocab_size width heads layers mlp_ratio tokenizer_kwargs norm_kwargs",
        ),
        harmless=split("hf_tokenizer_name hf_model_pretrained pad_id output_tokens eos_id"),
        fixed={"pool_type": ("argmax",), "proj_type": ("linear",)},
    ),
}
"""open_clip_config.json of CLIP, its default values included. Values that are empty or false are
harmless: they switch nothing on."""
OPEN_CLIP_SIGLIP: Mapping[str, KeyRules] = {
    **OPEN_CLIP,
    "vision_cfg": KeyRules(
        obeyed=split("image_size timm_model_name"),
        harmless=split("timm_model_pretrained timm_drop timm_drop_path"),
        fixed={"timm_pool": ("map",), "timm_proj": ("none",)},
    ),
    "text_cfg": KeyRules(
        obeyed=OPEN_CLIP["text_cfg"].obeyed | {"act_kwargs"},
        harmless=OPEN_CLIP["text_cfg"].harmless,
        fixed={
            "no_causal_mask": (True,),
            "proj_bias": (True,),
            "pool_type": ("last",),
            "proj_type": ("linear",),
        },
    ),
}
OPEN_CLIP_MOBILECLIP: Mapping[str, KeyRules] = {
    **OPEN_CLIP,
    "vision_cfg": KeyRules(
        obeyed=split("image_size timm_model_name"),
        harmless=split("timm_model_pretrained timm_drop timm_drop_path"),
        fixed={"timm_pool": ("avg", "token"), "timm_proj": ("none", "linear")},
    ),
    "text_cfg": KeyRules(
        obeyed=OPEN_CLIP["text_cfg"].obeyed | {"no_causal_mask"},
        harmless=OPEN_CLIP["text_cfg"].harmless,
        fixed={"pool_type": ("argmax",), "proj_type": ("linear",)},
    ),
}
OPEN_CLIP_RULES = {
    "clip": OPEN_CLIP,
    "siglip": OPEN_CLIP_SIGLIP,
    "mobileclip": OPEN_CLIP_MOBILECLIP,
}


APPLE: Mapping[str, KeyRules] = {
    # The tensors tell the rest: the dimension, which towers, how many layers, how wide.
    "": KeyRules(obeyed=split("image_cfg text_cfg"), harmless=HARMLESS | {"embed_dim"}),
    "image_cfg": KeyRules(obeyed=split("image_size"), harmless=split("model_name")),
    "text_cfg": KeyRules(
        obeyed=split("n_heads_per_layer causal_masking"),
        harmless=split(
            "context_length vocab_size dim ffn_multiplier_per_layer n_transformer_layers model_name"
        ),
        fixed={"norm_layer": ("layer_norm", "layer_norm_fp32")},
    ),
}
"""The configurations in the package ml-mobileclip (mobileclip/configs), beside Apple's weights."""


def check_apple(config: Table) -> None:
    """Check config.json beside Apple's MobileCLIP weights. Raises CheckpointError."""
    file = "config.json"
    check_keys(config, APPLE[""], file)
    for section in ("image_cfg", "text_cfg"):
        table = config.get(section, {})
        if not isinstance(table, Mapping):
            raise unsupported(file, section, table, "is not an object")
        check_keys(table, APPLE[section], file, section)


def check_open_clip(config: Table, model_type: str) -> None:
    """Check open_clip_config.json, or its model_cfg alone; preprocess_cfg is checked where it is
    read. Raises CheckpointError."""
    rules, file = OPEN_CLIP_RULES.get(model_type, OPEN_CLIP), "open_clip_config.json"
    if "model_cfg" in config:
        check_keys(_effective(config), rules[""], file)
    model = config.get("model_cfg", config)
    tables = {"model_cfg": model} | {
        name: model.get(name) for name in ("vision_cfg", "text_cfg") if isinstance(model, Mapping)
    }
    for name, table in tables.items():
        if isinstance(table, Mapping):
            section = name if name == "model_cfg" else f"model_cfg.{name}"
            check_keys(_effective(table), rules[name], file, section)


def _effective(table: Table) -> Table:
    return {key: value for key, value in table.items() if value}


def config_rules(model_type: str, sections: Mapping[str, Table]) -> dict[str, KeyRules]:
    """The rules of config.json of a family whose sections, with their defaults, are `sections`.

    By section; "" is the top.
    """
    top = TOP.get(model_type, KeyRules())
    named = [*sections, *(f"{section}_dict" for section in sections)]
    rules = {"": KeyRules(top.obeyed | {*named}, HARMLESS | top.harmless, {**FIXED, **top.fixed})}
    for section, defaults in sections.items():
        own = SECTIONS.get(section, KeyRules())
        rules[section] = KeyRules(
            frozenset(defaults), HARMLESS | own.harmless, {**FIXED, **own.fixed}
        )
    return rules


def check_config(config: Table, sections: Mapping[str, Table]) -> None:
    """Check config.json of a family whose sections, with their defaults, are `sections`.

    Raises CheckpointError.
    """
    rules = config_rules(str(config.get("model_type")), sections)
    check_keys(config, rules[""], "config.json")
    for section in sections:
        for name in (section, f"{section}_dict"):
            table = config.get(name)
            check_keys(
                table if isinstance(table, Mapping) else {}, rules[section], "config.json", name
            )


def decoder_rules(defaults: Table) -> KeyRules:
    """The rules of config.json of a decoder, which has no sections (Qwen3)."""
    top = TOP["qwen3"]
    own = split("layer_types is_causal use_bidirectional_attention auto_map")
    return KeyRules(top.obeyed | {*defaults} | own, HARMLESS | top.harmless, {**FIXED, **top.fixed})


def check_decoder(config: Table, defaults: Table) -> None:
    """Check config.json of a decoder, which has no sections (Qwen3). Raises CheckpointError."""
    check_keys(config, decoder_rules(defaults), "config.json")
    for name in ("rope_scaling", "rope_parameters"):
        table = config.get(name)
        check_keys(table if isinstance(table, Mapping) else {}, ROPE, "config.json", name)
    layers = config.get("layer_types") or []
    if not isinstance(layers, list) or {*map(str, layers)} - {"full_attention"}:
        raise unsupported("config.json", "layer_types", layers)
