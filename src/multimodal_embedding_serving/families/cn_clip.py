"""Chinese-CLIP (Yang et al. 2022, arXiv 2211.01335): CLIP's ViT, and RoBERTa-wwm for text."""

from __future__ import annotations

from collections.abc import Sequence

from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.families import Checkpoint, TowerSpec
from multimodal_embedding_serving.families.clip import plan_image
from multimodal_embedding_serving.families.transformer import transformer
from multimodal_embedding_serving.families.transforms import reject_modules, text_transform
from multimodal_embedding_serving.graph.layers import Encoder, bert_block, norm, place
from multimodal_embedding_serving.graph.ops import Ops, T

MAX_TOKENS = 52
"""Tokens of a text, [CLS] and [SEP] included; what the model was trained for (its paper)."""


def plan(checkpoint: Checkpoint) -> Sequence[TowerSpec]:
    w, text = checkpoint.weights, checkpoint.config["text_config"]
    reject_modules(checkpoint)
    bert = Encoder.from_config(text)
    return (
        plan_image(checkpoint, resize="squash"),
        TowerSpec(
            "text",
            {"input_ids": None, "attention_mask": None},
            lambda ops, x: embed_text(ops, w, bert, x["input_ids"], x["attention_mask"]),
            text_transform(
                checkpoint,
                {"max_length": MAX_TOKENS, "pad_id": text["pad_token_id"], "eos_kept": True},
                text["vocab_size"],
            ),
            w["text_projection.weight"].shape[0],
        ),
    )


FAMILY = transformer(plan, "chinese_clip")


def embed_text(ops: Ops[T], w: Weights, bert: Encoder, ids: T, mask: T) -> T:
    """ids, mask [B, L] -> the unit vector [B, D] of [CLS], projected without a pooler."""
    model = w.sub("text_model.")
    tables = model.sub("embeddings.")
    x = ops.embedding(ids, tables["word_embeddings.weight"])
    x = ops.add(x, ops.head_rows(tables["position_embeddings.weight"], x))
    x = ops.add(x, ops.constant(tables["token_type_embeddings.weight"].float32()[:1]))
    x = norm(ops, x, tables.sub("LayerNorm."), bert.eps)
    for layer in range(bert.layers):
        block = model.sub(f"encoder.layer.{layer}.")
        x = bert_block(ops, x, block, bert.heads, mask, bert.eps, bert.activation)
    return ops.l2_normalize(ops.linear(place(ops, x, 0), w["text_projection.weight"]))
