"""A configuration held against its tensors: what contradicts them would compute something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from multimodal_embedding_serving.checkpoints.layouts import count_layers
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.errors import CheckpointError

Shape = tuple[int | None, ...]
Config = Mapping[str, Any]

BLOCKS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "clip": (
        ("vision_config", "vision_model.encoder.layers."),
        ("text_config", "text_model.encoder.layers."),
    ),
    "chinese_clip": (
        ("vision_config", "vision_model.encoder.layers."),
        ("text_config", "text_model.encoder.layer."),
    ),
    "siglip": (
        ("vision_config", "vision_model.encoder.layers."),
        ("text_config", "text_model.encoder.layers."),
    ),
    "blip-2": (
        ("vision_config", "vision_model.encoder.layers."),
        ("qformer_config", "qformer.encoder.layer."),
    ),
}
"""Sections of the configuration and where their layers are."""


def check_sizes(weights: Weights, config: Config) -> None:
    """Layers, widths, vocabulary, positions and patches of a model in the normal form.

    Raises CheckpointError naming the file, the tensor, its shape and what was expected.
    """
    for section, prefix in BLOCKS[config["model_type"]]:
        _check_layers(weights, prefix, section, config[section])
    for name, shape in _expected(config):
        weights.tensor(name, shape)
    if config["model_type"] == "blip-2":
        _check_crossings(weights, config["qformer_config"])


def _check_crossings(weights: Weights, config: Config) -> None:
    every = config["cross_attention_frequency"]
    for layer in range(config["num_hidden_layers"]):
        found = len(weights.sub(f"qformer.encoder.layer.{layer}.crossattention.")) > 0
        if found != (layer % every == 0):
            state = "has" if found else "lacks"
            raise CheckpointError(
                f"{weights.file}: layer {layer} of the Q-Former {state} cross-attention, which is "
                f"in every layer that {every} divides"
            )


def _check_layers(weights: Weights, prefix: str, section: str, config: Config) -> None:
    found, told = count_layers(weights, prefix), config["num_hidden_layers"]
    if found != told:
        raise CheckpointError(
            f"{weights.file}: {found} layers under {prefix!r}, but {section} says {told}"
        )
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if width % heads:
        raise CheckpointError(f"{section}: {heads} heads don't divide a width of {width}")
    first = weights.sub(f"{prefix}0.")
    for layer in range(1, found):
        for name in weights.sub(f"{prefix}{layer}."):
            if name in first:  # Q-Formers have cross-attention in some layers only
                weights.tensor(f"{prefix}{layer}.{name}", first[name].shape)


def _expected(config: Config) -> Iterator[tuple[str, Shape]]:
    kind = config["model_type"]
    yield from _expected_vision(config["vision_config"], class_token=kind != "siglip")
    if kind == "blip-2":
        yield from _expected_bert(config["qformer_config"], "", "qformer.encoder.layer.0.")
    elif kind == "chinese_clip":
        text = config["text_config"]
        yield from _expected_bert(text, "text_model.", "text_model.encoder.layer.0.")
    else:
        text = config["text_config"]
        width = text["hidden_size"]
        start = "text_model.embeddings."
        yield f"{start}token_embedding.weight", (text["vocab_size"], width)
        yield f"{start}position_embedding.weight", (text["max_position_embeddings"], width)
        yield from _expected_block(text, "text_model.encoder.layers.0.")


def _expected_vision(vision: Config, *, class_token: bool) -> Iterator[tuple[str, Shape]]:
    width, side = vision["hidden_size"], vision["patch_size"]
    places = (vision["image_size"] // side) ** 2 + class_token
    start = "vision_model.embeddings."
    yield f"{start}patch_embedding.weight", (width, 3, side, side)
    yield f"{start}position_embedding.weight", (places, width)
    yield from _expected_block(vision, "vision_model.encoder.layers.0.")


def _expected_block(section: Config, start: str) -> Iterator[tuple[str, Shape]]:
    width, inner = section["hidden_size"], section["intermediate_size"]
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        yield f"{start}self_attn.{name}.weight", (width, width)
    yield f"{start}mlp.fc1.weight", (inner, width)
    yield f"{start}mlp.fc2.weight", (width, inner)


def _expected_bert(section: Config, start: str, layer: str) -> Iterator[tuple[str, Shape]]:
    width, inner = section["hidden_size"], section["intermediate_size"]
    entries, places = section["vocab_size"], section["max_position_embeddings"]
    yield f"{start}embeddings.word_embeddings.weight", (entries, width)
    yield f"{start}embeddings.position_embeddings.weight", (places, width)
    yield f"{layer}attention.output.dense.weight", (width, width)
    yield f"{layer}intermediate.dense.weight", (inner, width)
    yield f"{layer}output.dense.weight", (width, inner)
