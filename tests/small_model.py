"""A model of two small towers in one 8-d space, for tests of what is around a graph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.conversion.blueprint import Blueprint
from multimodal_embedding_serving.conversion.build import Conversion
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.graph.ops import Ops, T

DIMENSION = 8
SIDE = 16
ENTRIES = 32


Arrays = Mapping[str, NDArray[np.float32]]


def small_weights(seed: int = 0) -> Arrays:
    """The words' table, the patches' kernel, and a projection for each tower."""
    rng = np.random.default_rng(seed)
    shapes = {"table": (ENTRIES, 6), "read": (DIMENSION, 6), "kernel": (12, 3, 4, 4)}
    shapes["see"] = (DIMENSION, 12)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def small_plans(
    seed: int = 0, weights: Arrays | None = None, *, pooling: str = "mean", centre: float = 0.5
) -> Sequence[TowerSpec]:
    """Text: the masked mean of embeddings (or the first). Image: the mean of patches."""
    w = small_weights(seed) if weights is None else weights

    def text(ops: Ops[T], inputs: Mapping[str, T]) -> T:
        x = ops.embedding(inputs["input_ids"], w["table"])
        mask = inputs["attention_mask"]
        if pooling == "mean":
            pooled = ops.masked_mean(x, mask)
        else:
            pooled = ops.take_place(x, ops.first_place(mask, 1))
        return ops.l2_normalize(ops.linear(pooled, w["read"]))

    def image(ops: Ops[T], inputs: Mapping[str, T]) -> T:
        x = ops.pixels(inputs["pixels"], (centre,) * 3, (0.5,) * 3)
        x = ops.gelu(ops.conv2d(x, w["kernel"], stride=4))
        return ops.l2_normalize(ops.linear(ops.mean(x, (2, 3)), w["see"]))

    looks: dict[str, Any] = {"size": SIDE, "resize": "squash", "resample": "bicubic", "patches": 16}
    reads: dict[str, Any] = {"max_length": 12, "pad_id": 0, "eos_kept": False}
    return (
        TowerSpec("image", {"pixels": SIDE}, image, looks, DIMENSION),
        TowerSpec("text", {"input_ids": None, "attention_mask": None}, text, reads, DIMENSION),
    )


def small_tokenizer() -> str:
    """tokenizer.json of a word-level vocabulary: [PAD], [UNK] and thirty letters and words."""
    words = ["[PAD]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz", "cat", "dog", "the", "of"]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": {"type": "Whitespace"},
            "post_processor": None,
            "decoder": None,
            "model": {
                "type": "WordLevel",
                "vocab": {word: place for place, word in enumerate(words)},
                "unk_token": "[UNK]",
            },
        }
    )


def small_conversion(
    seed: int = 0, precision: str = "f16", *, notice: str | None = None, **fields: Any
) -> Conversion:
    """`fields` are the Blueprint's, where they differ."""
    blueprint = Blueprint(
        model="Tests/small",
        family="Tests",
        plans=small_plans(seed),
        tokenizer=small_tokenizer(),
        source={"folder": "tests"},
        licence="apache-2.0",
    )
    return Conversion(replace(blueprint, **fields), precision, notice=notice)
