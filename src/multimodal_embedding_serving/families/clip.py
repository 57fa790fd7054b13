"""CLIP (Radford et al. 2021, arXiv 2103.00020): a ViT for images, a causal transformer for text.

OpenAI's weights use quick_gelu, LAION's and DataComp's the exact gelu: config.json says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.families import Checkpoint, TowerSpec
from multimodal_embedding_serving.families.transformer import transformer
from multimodal_embedding_serving.families.transforms import (
    end_token,
    image_transform,
    pixel_scale,
    reject_modules,
    text_transform,
)
from multimodal_embedding_serving.graph.layers import Encoder, embed_patches, encode, norm, place
from multimodal_embedding_serving.graph.ops import Ops, T

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def plan(checkpoint: Checkpoint) -> Sequence[TowerSpec]:
    w, text = checkpoint.weights, checkpoint.config["text_config"]
    reject_modules(checkpoint)
    encoder, end = Encoder.from_config(text), end_token(checkpoint, read_end(text))
    return (
        plan_image(checkpoint, resize="short_side"),
        TowerSpec(
            "text",
            {"input_ids": None},
            lambda ops, x: embed_text(ops, w, encoder, end, x["input_ids"]),
            text_transform(
                checkpoint,
                {"max_length": text["max_position_embeddings"], "pad_id": end, "eos_kept": True},
                text["vocab_size"],
            ),
            w["text_projection.weight"].shape[0],
        ),
    )


FAMILY = transformer(plan, "clip")


def plan_image(checkpoint: Checkpoint, *, resize: str) -> TowerSpec:
    """The image tower, which CN-CLIP has too."""
    w, config = checkpoint.weights, checkpoint.config
    vision = config["vision_config"]
    encoder, side = Encoder.from_config(vision), vision["image_size"]
    mean, std = pixel_scale(checkpoint, MEAN, STD)
    patches = (side // vision["patch_size"]) ** 2
    return TowerSpec(
        "image",
        {"pixels": side},
        lambda ops, x: embed_image(ops, w, encoder, ops.pixels(x["pixels"], mean, std)),
        image_transform(checkpoint, side, patches, resize=resize, resample="bicubic"),
        w["visual_projection.weight"].shape[0],
    )


def read_end(text: Mapping[str, Any]) -> int:
    """EOT's id where there is no tokenizer to ask. Old configs say 2, which was never true: the
    vocabulary's last entry is meant."""
    end: int = text["eos_token_id"]
    return int(text["vocab_size"]) - 1 if end == 2 else end


def embed_image(ops: Ops[T], w: Weights, vit: Encoder, pixels: T) -> T:
    """Normalized pixels [B, 3, h, w] -> the class token's unit vector [B, D]."""
    model = w.sub("vision_model.")
    x = embed_patches(ops, pixels, model.sub("embeddings."))
    x = encode(ops, norm(ops, x, model.sub("pre_layrnorm."), vit.eps), model, vit)
    first = norm(ops, place(ops, x, 0), model.sub("post_layernorm."), vit.eps)
    return ops.l2_normalize(ops.linear(first, w["visual_projection.weight"]))


def embed_text(ops: Ops[T], w: Weights, gpt: Encoder, end: int, ids: T) -> T:
    """Pooled at the first EOT: causal attention never lets it see the padding behind it."""
    model = w.sub("text_model.")
    x = ops.embedding(ids, model["embeddings.token_embedding.weight"])
    x = ops.add(x, ops.head_rows(model["embeddings.position_embedding.weight"], x))
    x = encode(ops, x, model, gpt, causal=True)
    pooled = ops.take_place(x, ops.first_place(ids, end))
    pooled = norm(ops, pooled, model.sub("final_layer_norm."), gpt.eps)
    return ops.l2_normalize(ops.linear(pooled, w["text_projection.weight"]))
