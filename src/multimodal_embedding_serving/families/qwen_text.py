"""Qwen3-Embedding (Zhang et al. 2025, arXiv 2506.05176): a causal decoder as a text encoder.

No cache: one pass over the whole text, pooled at its last token. As attention is causal, what
stands right of that token can't reach it, so that padding on the right changes nothing. Decoders
that were tuned to attend in both directions are given the mask of the padding instead. On which
side a checkpoint's own code pads makes no difference: rotary positions are relative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from multimodal_embedding_serving.catalog import ModelSpec
from multimodal_embedding_serving.checkpoints import qwen_config
from multimodal_embedding_serving.checkpoints.layouts import Layout, count_layers, rename
from multimodal_embedding_serving.checkpoints.qwen_config import check_qwen3, complete_qwen3
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import Checkpoint, Family, TowerSpec
from multimodal_embedding_serving.families.pooling import LAST_TOKEN, Finish
from multimodal_embedding_serving.families.transforms import text_transform
from multimodal_embedding_serving.graph.layers import (
    Activation,
    activate,
    dense,
    join_heads,
    split_heads,
)
from multimodal_embedding_serving.graph.ops import Ops, T

MAX_TOKENS, MIN_DIMENSION = 32768, 32
"""Of a text, and of a vector cut short; what the models were trained for (their cards)."""
END = 151643
"""<|endoftext|>: the tokenizer appends it, and it pads."""
HEAD = "linear.weight"
"""A projection after the final norm, [vector, width] (voyage-4-nano)."""
PROMPTS = {"query": "Instruct: {instruction}\nQuery:{text}", "document": "{text}"}
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


@dataclass(frozen=True, slots=True)
class Decoder:
    """The numbers of the decoder that its tensors' shapes don't tell."""

    activation: Activation
    eps: float
    theta: float
    """Base of the rotary frequencies."""
    causal: bool = True


def read_qwen(
    weights: Weights, layout: Layout, config: Mapping[str, Any] | None, spec: ModelSpec | None
) -> Checkpoint:
    """Tensors without prefix, the config whole and in agreement with them.

    Raises CheckpointError: no config (it alone tells the rotary base), or one that contradicts.
    """
    if not config:
        raise CheckpointError(f"{weights.file}: no config.json beside it")
    renamed, full = rename(weights, layout), complete_qwen3(config)
    check_qwen3(renamed, full)
    return Checkpoint(renamed, full, spec)


def plan(checkpoint: Checkpoint) -> Sequence[TowerSpec]:
    w, config = checkpoint.weights, checkpoint.config
    qwen = Decoder(
        config["hidden_act"], config["rms_norm_eps"], config["rope_theta"], config["is_causal"]
    )
    longest = min(MAX_TOKENS, config["max_position_embeddings"])
    entries, width = w["embed_tokens.weight"].shape
    if HEAD in w:
        width = w[HEAD].shape[0]
    pad = checkpoint.description.tokenizer.pad
    finish = Finish.of(checkpoint)
    return (
        TowerSpec(
            "text",
            {"input_ids": None, "attention_mask": None},
            lambda ops, x: embed(ops, w, qwen, x["input_ids"], x["attention_mask"], finish),
            text_transform(
                checkpoint,
                {
                    "max_length": longest,
                    "pad_id": min(END, entries - 1) if pad is None else pad,
                    "eos_kept": True,
                    "prompts": PROMPTS,
                    "default_instruction": INSTRUCTION,
                },
                entries,
            ),
            finish.width or width,
        ),
    )


FAMILY = Family(
    plan=plan,
    model_type="qwen3",
    layouts=qwen_config.LAYOUTS,
    read=read_qwen,
    precision="int8-weights",
    min_dimension=MIN_DIMENSION,
    prompts=PROMPTS,
    instruction=INSTRUCTION,
)


def embed(
    ops: Ops[T], w: Weights, qwen: Decoder, ids: T, mask: T, finish: Finish = LAST_TOKEN
) -> T:
    """ids, mask [B, L], padded on the right -> unit vectors [B, W]."""
    x = ops.embedding(ids, w["embed_tokens.weight"])
    seen = None if qwen.causal else mask
    for layer in range(count_layers(w, "layers.")):
        x = block(ops, x, w.sub(f"layers.{layer}."), qwen, seen)

    def finish_token(y: T) -> T:
        y = ops.rms_norm(y, w["norm.weight"], qwen.eps)
        return ops.linear(y, w[HEAD]) if HEAD in w else y

    return ops.l2_normalize(finish(ops, x, mask, finish_token))


def block(ops: Ops[T], x: T, w: Weights, qwen: Decoder, mask: T | None) -> T:
    y = ops.rms_norm(x, w["input_layernorm.weight"], qwen.eps)
    x = ops.add(x, attention(ops, y, w.sub("self_attn."), qwen, mask))
    y = ops.rms_norm(x, w["post_attention_layernorm.weight"], qwen.eps)
    mlp = partial(gated_mlp, ops, w=w.sub("mlp."), activation=qwen.activation)
    return ops.add(x, ops.by_tokens(y, mlp))


def attention(ops: Ops[T], x: T, w: Weights, qwen: Decoder, mask: T | None) -> T:
    """Grouped-query (arXiv 2305.13245); queries and keys are normed, then rotated.

    Causal, unless there is a mask.
    """
    width = w["q_norm.weight"].shape[0]
    heads, shared = (w[f"{name}_proj.weight"].shape[0] // width for name in "qk")
    q = split_heads(ops, dense(ops, x, w.sub("q_proj.")), heads, width)
    k = split_heads(ops, dense(ops, x, w.sub("k_proj.")), shared, width)
    v = split_heads(ops, dense(ops, x, w.sub("v_proj.")), shared, width)
    q = ops.rope(ops.rms_norm(q, w["q_norm.weight"], qwen.eps), qwen.theta)
    k = ops.rope(ops.rms_norm(k, w["k_norm.weight"], qwen.eps), qwen.theta)
    y = join_heads(ops, ops.grouped_attention(q, k, v, mask), heads, width)
    return dense(ops, y, w.sub("o_proj."))


def gated_mlp(ops: Ops[T], x: T, w: Weights, activation: Activation) -> T:
    """SwiGLU (Shazeer 2020, arXiv 2002.05202): down(silu(gate(x)) * up(x))."""
    gate = activate(ops, dense(ops, x, w.sub("gate_proj.")), activation)
    return dense(ops, ops.multiply(gate, dense(ops, x, w.sub("up_proj."))), w.sub("down_proj."))
