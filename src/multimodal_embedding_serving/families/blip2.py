"""BLIP-2's retrieval model (Li et al. 2023, arXiv 2301.12597): ViT-g and a Q-Former.

The Q-Former is a BERT in which learned query tokens look at the image through cross-attention;
texts go through the same layers without it, by a feed-forward of their own. One vector for an
image is this service's rule: the mean of the projected queries (upstream keeps all of them).
"""

from __future__ import annotations

from collections.abc import Sequence

from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.families import Checkpoint, TowerSpec
from multimodal_embedding_serving.families.clip import MEAN, STD
from multimodal_embedding_serving.families.transformer import transformer
from multimodal_embedding_serving.families.transforms import (
    image_transform,
    pixel_scale,
    reject_modules,
    text_transform,
)
from multimodal_embedding_serving.graph.layers import (
    AttentionNames,
    Encoder,
    bert_attention,
    bert_mlp,
    dense,
    embed_patches,
    encode,
    norm,
    place,
)
from multimodal_embedding_serving.graph.ops import Ops, T

NAMES = AttentionNames("attention.query", "attention.key", "attention.value", "output.dense")
QUERY_MLP = ("intermediate_query", "output_query")
TEXT_MLP = ("intermediate", "output")


def plan(checkpoint: Checkpoint) -> Sequence[TowerSpec]:
    w, config = checkpoint.weights, checkpoint.config
    vision, qformer = config["vision_config"], config["qformer_config"]
    vit, bert = Encoder.from_config(vision), Encoder.from_config(qformer)
    side = vision["image_size"]
    reject_modules(checkpoint)
    mean, std = pixel_scale(checkpoint, MEAN, STD)
    patches = (side // vision["patch_size"]) ** 2
    return (
        TowerSpec(
            "image",
            {"pixels": side},
            lambda ops, x: embed_image(ops, w, vit, bert, ops.pixels(x["pixels"], mean, std)),
            image_transform(checkpoint, side, patches, resize="squash", resample="bicubic"),
            w["vision_projection.weight"].shape[0],
        ),
        TowerSpec(
            "text",
            {"input_ids": None, "attention_mask": None},
            lambda ops, x: embed_text(ops, w, bert, x["input_ids"], x["attention_mask"]),
            text_transform(
                checkpoint,
                {"max_length": qformer["max_position_embeddings"], "eos_kept": True}
                | {"pad_id": qformer["pad_token_id"]},
                qformer["vocab_size"],
            ),
            w["text_projection.weight"].shape[0],
        ),
    )


FAMILY = transformer(plan, "blip-2")


def embed_image(ops: Ops[T], w: Weights, vit: Encoder, bert: Encoder, pixels: T) -> T:
    """Normalized pixels [B, 3, h, w] -> unit vectors [B, D]: the mean comes before the length."""
    model = w.sub("vision_model.")
    x = encode(ops, embed_patches(ops, pixels, model.sub("embeddings.")), model, vit)
    image = norm(ops, x, model.sub("post_layernorm."), vit.eps)
    queries = ops.tile_batch(w["query_tokens"], image)
    answers = qformer(ops, queries, w.sub("qformer."), bert, image=image)
    return ops.l2_normalize(ops.mean(dense(ops, answers, w.sub("vision_projection.")), (1,)))


def embed_text(ops: Ops[T], w: Weights, bert: Encoder, ids: T, mask: T) -> T:
    """ids, mask [B, L] -> the unit vector [B, D] of [CLS]."""
    x = ops.embedding(ids, w["embeddings.word_embeddings.weight"])
    x = ops.add(x, ops.head_rows(w["embeddings.position_embeddings.weight"], x))
    x = place(ops, qformer(ops, x, w.sub("qformer."), bert, mask=mask), 0)
    return ops.l2_normalize(dense(ops, x, w.sub("text_projection.")))


def qformer(
    ops: Ops[T],
    x: T,
    w: Weights,
    bert: Encoder,
    *,
    image: T | None = None,
    mask: T | None = None,
) -> T:
    """x [B, L, W]: query tokens, which look at `image`, or words, which look at `mask`."""
    x = norm(ops, x, w.sub("layernorm."), bert.eps)
    for layer in range(bert.layers):
        block = w.sub(f"encoder.layer.{layer}.")
        x = bert_attention(
            ops, x, block.sub("attention."), bert.heads, bert.eps, mask=mask, names=NAMES
        )
        cross = block.sub("crossattention.")
        if image is not None and len(cross):  # every second layer has it
            x = bert_attention(ops, x, cross, bert.heads, bert.eps, memory=image, names=NAMES)
        mlp = TEXT_MLP if image is None else QUERY_MLP
        x = bert_mlp(ops, x, block, bert.eps, mlp, bert.activation)
    return x
