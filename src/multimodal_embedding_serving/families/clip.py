"""CLIP (Radford et al. 2021, arXiv 2103.00020): a ViT for pictures, a causal transformer for text.

OpenAI's weights use quick_gelu, LAION's and DataComp's the exact gelu: config.json says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.families import Checkpoint, TowerPlan
from multimodal_embedding_serving.graph.layers import norm, patches, pre_norm_block
from multimodal_embedding_serving.graph.ops import Ops, T

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, slots=True)
class Transformer:
    """The numbers of one tower that its tensors' shapes don't tell."""

    layers: int
    heads: int
    activation: str
    eps: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Transformer:
        return cls(
            config["num_hidden_layers"],
            config["num_attention_heads"],
            config["hidden_act"],
            config["layer_norm_eps"],
        )


def plan(checkpoint: Checkpoint) -> Sequence[TowerPlan]:
    w, config = checkpoint.weights, checkpoint.config
    vision, text = config["vision_config"], config["text_config"]
    side, patch = vision["image_size"], vision["patch_size"]
    dimension = w["text_projection.weight"].shape[0]
    see, read = Transformer.from_config(vision), Transformer.from_config(text)
    end = end_token(text)
    return (
        TowerPlan(
            "image",
            {"pixels": side},
            lambda ops, x: embed_image(ops, w, see, x["pixels"]),
            {"size": side, "resize": "short_side", "resample": "bicubic"}
            | {"patches": (side // patch) ** 2},
            dimension,
        ),
        TowerPlan(
            "text",
            {"input_ids": None},
            lambda ops, x: embed_text(ops, w, read, end, x["input_ids"]),
            {"max_length": text["max_position_embeddings"], "pad_id": end},
            dimension,
        ),
    )


def end_token(text: Mapping[str, Any]) -> int:
    """EOT's id. Old configs say 2, which was never true: the vocabulary's last entry is meant."""
    end: int = text["eos_token_id"]
    return int(text["vocab_size"]) - 1 if end == 2 else end


def vision_transformer(ops: Ops[T], w: Weights, vit: Transformer, pixels: T) -> T:
    """Normalised pixels [B, 3, h, w] -> the class token [B, W], after the last norm."""
    embeddings = w.sub("embeddings.")
    x = patches(ops, pixels, embeddings.sub("patch_embedding."))
    token = embeddings["class_embedding"].float32().reshape(1, -1)
    x = ops.concat([ops.tile_batch(token, x), x], 1)
    x = ops.add(x, ops.constant(embeddings["position_embedding.weight"]))
    x = norm(ops, x, w.sub("pre_layrnorm."), vit.eps)
    for layer in range(vit.layers):
        block = w.sub(f"encoder.layers.{layer}.")
        x = pre_norm_block(ops, x, block, vit.heads, vit.activation, vit.eps, causal=False)
    first = ops.reshape(ops.crop(x, 1, 0, 1), (0, -1))
    return norm(ops, first, w.sub("post_layernorm."), vit.eps)


def embed_image(ops: Ops[T], w: Weights, vit: Transformer, pixels: T) -> T:
    x = vision_transformer(ops, w.sub("vision_model."), vit, ops.pixels(pixels, MEAN, STD))
    return ops.l2_normalize(ops.linear(x, w["visual_projection.weight"]))


def embed_text(ops: Ops[T], w: Weights, gpt: Transformer, end: int, ids: T) -> T:
    """Pooled at the first EOT: causal attention never lets it see the padding behind it."""
    model = w.sub("text_model.")
    x = ops.embedding(ids, model["embeddings.token_embedding.weight"])
    x = ops.add(x, ops.head_rows(model["embeddings.position_embedding.weight"], x))
    for layer in range(gpt.layers):
        block = model.sub(f"encoder.layers.{layer}.")
        x = pre_norm_block(ops, x, block, gpt.heads, gpt.activation, gpt.eps, causal=True)
    pooled = ops.take_place(x, ops.first_place(ids, end))
    pooled = norm(ops, pooled, model.sub("final_layer_norm."), gpt.eps)
    return ops.l2_normalize(ops.linear(pooled, w["text_projection.weight"]))
