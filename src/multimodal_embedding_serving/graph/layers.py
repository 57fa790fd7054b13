"""Layers that the families share: attention, feed-forward and transformer blocks, over `Ops`.

`w` is a view of the checkpoint below one prefix, with the transformers library's names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.graph.ops import Ops, T

Activation = str
"""A `hidden_act` of the transformers library."""


def activate(ops: Ops[T], x: T, name: Activation) -> T:
    """Apply an activation by its name in config.json. Raises CheckpointError for an unknown one."""
    functions: dict[str, Callable[[T], T]] = {
        "gelu": ops.gelu,
        "gelu_pytorch_tanh": lambda y: ops.gelu(y, "tanh"),
        "gelu_new": lambda y: ops.gelu(y, "tanh"),
        "quick_gelu": ops.quick_gelu,
        "relu": ops.relu,
        "silu": ops.silu,
    }
    if name not in functions:
        known = ", ".join(sorted(functions))
        raise CheckpointError(f"config.json: unknown activation {name[:40]!r}; known: {known}")
    return functions[name](x)


def dense(ops: Ops[T], x: T, w: Weights) -> T:
    """A linear layer: `weight` [out, in] and, if the checkpoint has one, `bias` [out]."""
    return ops.linear(x, w["weight"], w.get("bias"))


def norm(ops: Ops[T], x: T, w: Weights, eps: float) -> T:
    """LayerNorm with `weight` and `bias` [W]."""
    return ops.layer_norm(x, w["weight"], w["bias"], eps)


def split_heads(ops: Ops[T], x: T, heads: int, width: int) -> T:
    """[B, L, heads * width] -> [B, heads, L, width]."""
    return ops.transpose(ops.reshape(x, (0, 0, heads, width)), (0, 2, 1, 3))


def join_heads(ops: Ops[T], x: T, heads: int, width: int) -> T:
    """[B, heads, L, width] -> [B, L, heads * width]."""
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (0, 0, heads * width))


@dataclass(frozen=True, slots=True)
class AttentionNames:
    """A checkpoint's names for the four matrices of an attention layer."""

    query: str = "q_proj"
    key: str = "k_proj"
    value: str = "v_proj"
    output: str = "out_proj"


def attention(
    ops: Ops[T],
    x: T,
    w: Weights,
    heads: int,
    *,
    memory: T | None = None,
    causal: bool = False,
    mask: T | None = None,
    names: AttentionNames | None = None,
) -> T:
    """Multi-head attention of x [B, L, W] over itself, or over `memory` [B, S, *] if given."""
    names = names or AttentionNames()
    source = x if memory is None else memory
    total = w[f"{names.query}.weight"].shape[0]
    width = total // heads
    q = split_heads(ops, dense(ops, x, w.sub(f"{names.query}.")), heads, width)
    k = split_heads(ops, dense(ops, source, w.sub(f"{names.key}.")), heads, width)
    v = split_heads(ops, dense(ops, source, w.sub(f"{names.value}.")), heads, width)
    y = ops.attention(q, k, v, causal=causal, mask=mask)
    return dense(ops, join_heads(ops, y, heads, width), w.sub(f"{names.output}."))


def mlp(ops: Ops[T], x: T, w: Weights, activation: Activation) -> T:
    """fc2(activation(fc1(x)))."""
    return dense(ops, activate(ops, dense(ops, x, w.sub("fc1.")), activation), w.sub("fc2."))


def pre_norm_block(
    ops: Ops[T], x: T, w: Weights, heads: int, activation: Activation, eps: float, causal: bool
) -> T:
    """A transformer block of CLIP and SigLIP: norm before attention and before the MLP."""
    y = norm(ops, x, w.sub("layer_norm1."), eps)
    x = ops.add(x, attention(ops, y, w.sub("self_attn."), heads, causal=causal))
    y = norm(ops, x, w.sub("layer_norm2."), eps)
    return ops.add(x, mlp(ops, y, w.sub("mlp."), activation))


@dataclass(frozen=True, slots=True)
class Encoder:
    """The parameters of a stack of blocks that can't be read from its tensors' shapes."""

    layers: int
    heads: int
    activation: Activation
    eps: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Encoder:
        """From a section of config.json that has its defaults filled in."""
        return cls(
            config["num_hidden_layers"],
            config["num_attention_heads"],
            config["hidden_act"],
            config["layer_norm_eps"],
        )


def encode(ops: Ops[T], x: T, w: Weights, encoder: Encoder, *, causal: bool = False) -> T:
    """All pre-norm blocks of a tower: `encoder.layers.#` of the checkpoint."""
    for layer in range(encoder.layers):
        block = w.sub(f"encoder.layers.{layer}.")
        x = pre_norm_block(
            ops, x, block, encoder.heads, encoder.activation, encoder.eps, causal=causal
        )
    return x


BERT_ATTENTION = AttentionNames("self.query", "self.key", "self.value", "output.dense")


def bert_attention(
    ops: Ops[T],
    x: T,
    w: Weights,
    heads: int,
    eps: float,
    *,
    memory: T | None = None,
    mask: T | None = None,
    names: AttentionNames = BERT_ATTENTION,
) -> T:
    """Attention, residual, norm."""
    y = attention(ops, x, w, heads, memory=memory, mask=mask, names=names)
    return norm(ops, ops.add(x, y), w.sub("output.LayerNorm."), eps)


def bert_mlp(
    ops: Ops[T], x: T, w: Weights, eps: float, names: tuple[str, str], activation: Activation
) -> T:
    """Two linear layers with the activation between them, residual, norm."""
    inner, outer = names
    y = activate(ops, dense(ops, x, w.sub(f"{inner}.dense.")), activation)
    y = dense(ops, y, w.sub(f"{outer}.dense."))
    return norm(ops, ops.add(x, y), w.sub(f"{outer}.LayerNorm."), eps)


def bert_block(
    ops: Ops[T],
    x: T,
    w: Weights,
    heads: int,
    mask: T | None,
    eps: float,
    activation: Activation = "gelu",
) -> T:
    """A BERT layer (Devlin et al. 2018, arXiv 1810.04805): norm after each residual."""
    x = bert_attention(ops, x, w.sub("attention."), heads, eps, mask=mask)
    return bert_mlp(ops, x, w, eps, ("intermediate", "output"), activation)


def patches(ops: Ops[T], pixels: T, w: Weights) -> T:
    """Patch embedding: a convolution whose stride is its kernel -> [B, patches, W]."""
    weight = w["weight"]
    width, side = weight.shape[0], weight.shape[-1]
    x = ops.conv2d(pixels, weight, w.get("bias"), stride=side)
    return ops.transpose(ops.reshape(x, (0, width, -1)), (0, 2, 1))


def embed_patches(ops: Ops[T], pixels: T, w: Weights) -> T:
    """Normalized pixels [B, 3, h, w] -> patches with positions; a class token, if any, is first."""
    x = patches(ops, pixels, w.sub("patch_embedding."))
    if "class_embedding" in w:
        token = w["class_embedding"].float32().reshape(1, -1)
        x = ops.concat([ops.tile_batch(token, x), x], 1)
    return ops.add(x, ops.constant(w["position_embedding.weight"]))


def place(ops: Ops[T], x: T, index: int) -> T:
    """Position `index` of x [B, L, W] -> [B, W]."""
    return ops.reshape(ops.crop(x, 1, index, index + 1), (0, -1))
