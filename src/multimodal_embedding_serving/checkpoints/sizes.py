"""Check a configuration against its tensors: a contradiction would change the vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from multimodal_embedding_serving.checkpoints.configs import DEFAULTS
from multimodal_embedding_serving.checkpoints.layouts import count_layers
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.errors import CheckpointError

Shape = tuple[int | None, ...]
Config = Mapping[str, Any]

VISION, TEXT, QFORMER = "vision_model.", "text_model.", "qformer."


@dataclass(frozen=True, slots=True)
class Stack:
    """The transformer that one section of a configuration describes."""

    section: str
    layers: str
    """Where its layers are."""
    expected: Iterator[tuple[str, Shape]]
    """Tensors whose shapes follow from the section."""


def check_sizes(weights: Weights, config: Config) -> None:
    """Layers, widths, vocabulary, positions and patches of a model in the normal form.

    The names tell which kind of transformer a section describes, so that a family of known parts
    needs no entry here. Raises CheckpointError naming the file, the tensor, its shape and what was
    expected.
    """
    sections = DEFAULTS[config["model_type"]]
    stacks = [_find_stack(weights, section, config[section]) for section in sections]
    for stack in stacks:
        _check_layers(weights, stack.layers, stack.section, config[stack.section])
    for stack in stacks:
        for name, shape in stack.expected:
            weights.tensor(name, shape)
    if "qformer_config" in sections:
        _check_crossings(weights, config["qformer_config"])


def _find_stack(weights: Weights, section: str, sizes: Config) -> Stack:
    if section == "vision_config":
        class_token = f"{VISION}embeddings.class_embedding" in weights
        expected = _expected_vision(sizes, class_token=class_token)
        return Stack(section, f"{VISION}encoder.layers.", expected)
    if section == "qformer_config":
        layers = f"{QFORMER}encoder.layer."
        return Stack(section, layers, _expected_bert(sizes, "", f"{layers}0."))
    if f"{TEXT}embeddings.word_embeddings.weight" in weights:  # BERT's names
        layers = f"{TEXT}encoder.layer."
        return Stack(section, layers, _expected_bert(sizes, TEXT, f"{layers}0."))
    return Stack(section, f"{TEXT}encoder.layers.", _expected_text(sizes))


def _check_crossings(weights: Weights, config: Config) -> None:
    every = config["cross_attention_frequency"]
    for layer in range(config["num_hidden_layers"]):
        crosses = len(weights.sub(f"{QFORMER}encoder.layer.{layer}.crossattention.")) > 0
        if crosses != (layer % every == 0):
            state = "has" if crosses else "lacks"
            raise CheckpointError(
                f"{weights.file}: layer {layer} of the Q-Former {state} cross-attention, which is "
                f"in every layer that {every} divides"
            )


def _check_layers(weights: Weights, prefix: str, section: str, config: Config) -> None:
    layers, expected = count_layers(weights, prefix), config["num_hidden_layers"]
    if layers != expected:
        raise CheckpointError(
            f"{weights.file}: {layers} layers under {prefix!r}, but {section} says {expected}"
        )
    width, heads = config["hidden_size"], config["num_attention_heads"]
    if width % heads:
        raise CheckpointError(f"{section}: {heads} heads don't divide a width of {width}")
    first = weights.sub(f"{prefix}0.")
    for layer in range(1, layers):
        for name in weights.sub(f"{prefix}{layer}."):
            if name in first:  # Q-Formers have cross-attention in some layers only
                weights.tensor(f"{prefix}{layer}.{name}", first[name].shape)


def _expected_text(text: Config) -> Iterator[tuple[str, Shape]]:
    width, start = text["hidden_size"], f"{TEXT}embeddings."
    yield f"{start}token_embedding.weight", (text["vocab_size"], width)
    yield f"{start}position_embedding.weight", (text["max_position_embeddings"], width)
    yield from _expected_block(text, f"{TEXT}encoder.layers.0.")


def _expected_vision(vision: Config, *, class_token: bool) -> Iterator[tuple[str, Shape]]:
    width, side = vision["hidden_size"], vision["patch_size"]
    places = (vision["image_size"] // side) ** 2 + class_token
    start = f"{VISION}embeddings."
    yield f"{start}patch_embedding.weight", (width, 3, side, side)
    yield f"{start}position_embedding.weight", (places, width)
    yield from _expected_block(vision, f"{VISION}encoder.layers.0.")


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
