"""Qwen3's tensors and config.json in their normal form.

Files of the bare decoder have no prefix, those of the language model have `model.` before each
name and, where it is not tied, an `lm_head` that an embedding does not need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from multimodal_embedding_serving.checkpoints.keys import check_decoder, unsupported
from multimodal_embedding_serving.checkpoints.layouts import Layout, count_layers
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.errors import CheckpointError

Config = Mapping[str, Any]

QWEN3: Config = MappingProxyType(
    {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    }
)
"""The class defaults of transformers 5.23's Qwen3Config, which real files leave out."""

CAUSAL_KEYS = {"is_causal": True, "use_bidirectional_attention": False}
"""Keys that say which places a token attends to, and their values for causal attention."""
KNOWN_CLASSES = {"Qwen3Config", "Qwen3Model", "Qwen3BidirectionalModel"}
"""Classes of `auto_map`: transformers' own, and that of voyage-4-nano and Giga-Embeddings."""

ROWS = """
PREFIXembed_tokens.weight                                       embed_tokens.weight
PREFIXlayers.#.self_attn.(q|k|v|o)_proj.weight    layers.#.self_attn.(q|k|v|o)_proj.weight
PREFIXlayers.#.self_attn.(q|k|v|o)_proj.bias      layers.#.self_attn.(q|k|v|o)_proj.bias   optional
PREFIXlayers.#.self_attn.(q|k)_norm.weight        layers.#.self_attn.(q|k)_norm.weight
PREFIXlayers.#.mlp.(gate|up|down)_proj.weight     layers.#.mlp.(gate|up|down)_proj.weight
PREFIXlayers.#.(input|post_attention)_layernorm.weight  layers.#.(input|post_attention)_layernorm.weight
PREFIXnorm.weight                                 norm.weight
linear.weight                                     linear.weight                            optional
lm_head.weight                                    -
"""  # noqa: E501


def _layout(prefix: str) -> Layout:
    marks = (f"{prefix}embed_tokens.weight", f"{prefix}layers.0.self_attn.q_norm.weight")
    return Layout("transformers", "qwen3", marks, ROWS.replace("PREFIX", prefix))


LAYOUTS: Sequence[Layout] = (_layout(""), _layout("model."))


def complete_qwen3(config: Config) -> dict[str, Any]:
    """A config with every key of `QWEN3`; `rope_theta` at its top, wherever the file has it.

    Raises CheckpointError where the config asks for what this decoder does not compute: scaled
    positions or sliding windows.
    """
    rope: dict[str, Any] = {}
    for name in ("rope_scaling", "rope_parameters"):
        table = config.get(name) or {}
        if not isinstance(table, Mapping):
            raise CheckpointError(f"config.json: {name} must be an object")
        rope |= table
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":  # before the keys that only such a type has
        raise CheckpointError(
            f"config.json: rope_type {str(kind)[:40]!r} is not supported (supported: 'default')"
        )
    check_decoder(config, QWEN3)
    _check_code(config)
    causal = _is_causal(config)
    whole = {**QWEN3, **{key: value for key, value in config.items() if value is not None}}
    if config.get("use_sliding_window"):
        raise CheckpointError("config.json: use_sliding_window = true is not supported")
    whole["rope_theta"] = float(rope.get("rope_theta", whole["rope_theta"]))
    whole["is_causal"] = causal
    return whole


def _is_causal(config: Config) -> bool:
    """Whether a place attends only to those before it.

    transformers' own code reads `is_causal` (Giga-Embeddings), the code of voyage-4-nano's
    repository `use_bidirectional_attention`.
    """
    directions = set()
    for key, causal in CAUSAL_KEYS.items():
        value = config.get(key)
        if value is not None and type(value) is not bool:
            raise unsupported("config.json", key, value)
        if value is not None:
            directions.add(value is causal)
    if len(directions) > 1:
        raise CheckpointError(f"config.json: {' and '.join(CAUSAL_KEYS)} contradict each other")
    causal = directions != {False}
    for key in ("architectures", "auto_map"):
        classes = str(config.get(key) or "")
        if causal and "Bidirectional" in classes:
            reason = f"contradicts causal attention; set {next(iter(CAUSAL_KEYS))} to false"
            raise unsupported("config.json", key, config[key], reason)
    return causal


def _check_code(config: Config) -> None:
    """A repository's own code is never run: it must be one whose meaning is known."""
    table = config.get("auto_map") or {}
    classes = table.values() if isinstance(table, Mapping) else [table]
    if {str(each).rpartition(".")[2] for each in classes} - KNOWN_CLASSES:
        reason = "is code of the repository, which is not run"
        raise unsupported("config.json", "auto_map", table, reason)


def check_qwen3(weights: Weights, config: Config) -> None:
    """Check a completed config against its tensors.

    The vocabulary is not checked: the family's own files differ from their configs in it. Raises
    CheckpointError naming the file, the tensor, its shape and what was expected.
    """
    layers, expected = count_layers(weights, "layers."), config["num_hidden_layers"]
    if layers != expected:
        raise CheckpointError(f"{weights.file}: {layers} layers, but config.json says {expected}")
    width, inner, head = (config[k] for k in ("hidden_size", "intermediate_size", "head_dim"))
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    if heads % shared:
        raise CheckpointError(f"config.json: {heads} heads can't share {shared} keys and values")
    weights.tensor("embed_tokens.weight", (None, width))
    if "linear.weight" in weights:
        if config["is_causal"]:
            raise CheckpointError(
                f"{weights.file}: the tensor 'linear.weight' belongs to a bidirectional model, but "
                "config.json says that attention is causal"
            )
        weights.tensor("linear.weight", (None, width))
    for layer in range(layers):
        block = weights.sub(f"layers.{layer}.")
        block.tensor("self_attn.q_proj.weight", (heads * head, width))
        block.tensor("self_attn.k_proj.weight", (shared * head, width))
        block.tensor("self_attn.v_proj.weight", (shared * head, width))
        block.tensor("self_attn.o_proj.weight", (width, heads * head))
        block.tensor("self_attn.q_norm.weight", (head,))
        block.tensor("mlp.gate_proj.weight", (inner, width))
        block.tensor("mlp.down_proj.weight", (width, inner))
