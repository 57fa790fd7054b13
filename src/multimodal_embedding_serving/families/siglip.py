"""SigLIP 2 at a fixed resolution (Tschannen et al. 2025, arXiv 2502.14786).

The image's vector is what a learned probe attends to; the text's is its last place, which is
nearly always padding: the model was trained so, and texts must be padded to the full length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multimodal_embedding_serving.checkpoints.token_settings import TOKENIZER_CONFIG
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import Checkpoint, TowerSpec
from multimodal_embedding_serving.families.transformer import transformer
from multimodal_embedding_serving.families.transforms import (
    image_transform,
    pixel_scale,
    reject_modules,
    text_transform,
)
from multimodal_embedding_serving.graph.layers import (
    Encoder,
    attention,
    dense,
    embed_patches,
    encode,
    mlp,
    norm,
    place,
)
from multimodal_embedding_serving.graph.ops import Ops, T

HALF = (0.5, 0.5, 0.5)
"""Mean and standard deviation of the pixels."""
PAD = 0
"""Of SigLIP 2's vocabulary, which is Gemma's; other files name their pad token."""


def plan(checkpoint: Checkpoint) -> Sequence[TowerSpec]:
    w, config = checkpoint.weights, checkpoint.config
    vision, text = config["vision_config"], config["text_config"]
    see, read = Encoder.from_config(vision), Encoder.from_config(text)
    side = vision["image_size"]
    reject_modules(checkpoint)
    mean, std = pixel_scale(checkpoint, HALF, HALF)
    patches = (side // vision["patch_size"]) ** 2
    dimension = w["text_model.head.weight"].shape[0]
    return (
        TowerSpec(
            "image",
            {"pixels": side},
            lambda ops, x: embed_image(ops, w, see, ops.pixels(x["pixels"], mean, std)),
            image_transform(checkpoint, side, patches, resize="squash", resample="bicubic"),
            dimension,
        ),
        TowerSpec(
            "text",
            {"input_ids": None},
            lambda ops, x: embed_text(ops, w, read, x["input_ids"]),
            text_transform(checkpoint, padded(checkpoint), text["vocab_size"]),
            dimension,
        ),
    )


FAMILY = transformer(plan, "siglip")


def padded(checkpoint: Checkpoint) -> dict[str, Any]:
    """Lower case, and always padded to all places: on the right, as the model was trained, unless
    the tokenizer's own files say otherwise."""
    text, tokens = checkpoint.config["text_config"], checkpoint.description.tokens
    pad = checkpoint.description.tokenizer.pad
    if tokens.pad_token is not None and pad is None:
        raise CheckpointError(
            f"{TOKENIZER_CONFIG}: pad_token {tokens.pad_token!r} is not in tokenizer.json"
        )
    return {
        "max_length": text["max_position_embeddings"],
        "pad_id": PAD if pad is None else pad,
        "fixed_length": True,
        "lowercase": tokens.clean != "siglip" or tokens.lowercase is not False,
        "eos_kept": True,
        "padding_side": tokens.padding_side or "file",
    }


def embed_image(ops: Ops[T], w: Weights, vit: Encoder, pixels: T) -> T:
    """Normalized pixels [B, 3, h, w] -> unit vectors [B, W]; no projection follows the head."""
    model = w.sub("vision_model.")
    x = embed_patches(ops, pixels, model.sub("embeddings."))
    x = norm(ops, encode(ops, x, model, vit), model.sub("post_layernorm."), vit.eps)
    return ops.l2_normalize(pool(ops, x, model.sub("head."), vit))


def pool(ops: Ops[T], x: T, w: Weights, vit: Encoder) -> T:
    """x [B, L, W] -> [B, W]: the probe attends to all places; it is not added back itself."""
    probe = ops.tile_batch(w["probe"].float32().reshape(1, -1), x)
    seen = attention(ops, probe, w.sub("attention."), vit.heads, memory=x)
    y = norm(ops, seen, w.sub("layernorm."), vit.eps)
    return place(ops, ops.add(seen, mlp(ops, y, w.sub("mlp."), vit.activation)), 0)


def embed_text(ops: Ops[T], w: Weights, gpt: Encoder, ids: T) -> T:
    """ids [B, L], L all places of the model -> unit vectors [B, W]; nothing is masked."""
    model = w.sub("text_model.")
    positions = model["embeddings.position_embedding.weight"]
    x = ops.embedding(ids, model["embeddings.token_embedding.weight"])
    x = encode(ops, ops.add(x, ops.constant(positions)), model, gpt)
    last = norm(ops, place(ops, x, positions.shape[0] - 1), model.sub("final_layer_norm."), gpt.eps)
    return ops.l2_normalize(dense(ops, last, model.sub("head.")))
