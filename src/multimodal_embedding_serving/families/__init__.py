"""The model families: how a checkpoint becomes towers. They run to make a graph, never to serve.

A family is a file of its own that reads like the paper, over the operations of `graph/ops.py`. It
defines `plan(checkpoint) -> [TowerSpec, …]` and `FAMILY`: what is true of all of its models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from multimodal_embedding_serving.catalog import ModelSpec
from multimodal_embedding_serving.checkpoints.description import Description
from multimodal_embedding_serving.checkpoints.layouts import Layout
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.errors import FamilyNotBuilt
from multimodal_embedding_serving.types import Modality


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read: tensors under the transformers library's names, its config."""

    weights: Weights
    config: Mapping[str, Any]
    """config.json with the upstream defaults filled in, or what stands for it."""
    spec: ModelSpec | None
    """The catalog's row; None for a checkpoint that is not in it."""
    description: Description = field(default_factory=Description)
    """What its other files say."""


@dataclass(frozen=True, slots=True)
class TowerSpec:
    """One tower, ready to be emitted."""

    modality: Modality
    inputs: Mapping[str, int | None]
    """input_ids and attention_mask (None), or pixels (its side)."""
    build: Callable[[Any, Mapping[str, Any]], Any]
    """(ops, inputs by name) -> the embedding [B, dimension], L2-normalized."""
    transform: Mapping[str, Any]
    """What comes before the graph: the manifest form of ImageTransform or TextTransform."""
    dimension: int
    storage: Mapping[str, Any] = field(default_factory=dict)
    """Forms of storage that this tower wants other than the asked ones, by kind of weight."""


Config = Mapping[str, Any]
ReadCheckpoint = Callable[[Weights, Layout, Config | None, ModelSpec | None], Checkpoint]
"""Tensors in one of the family's layouts -> the normal form. Raises CheckpointError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What is true of every model of a family, whatever its size."""

    plan: Callable[[Checkpoint], Sequence[TowerSpec]]
    model_type: str | None = None
    """As config.json calls it; None: no checkpoint is of this family."""
    layouts: Sequence[Layout] = ()
    """The forms that its checkpoints come in."""
    read: ReadCheckpoint | None = None
    """How a checkpoint is brought into the normal form; None where there are no layouts."""
    precision: str = "f16"
    """How weights are stored where neither the settings nor a row of the catalog say."""
    min_dimension: int | None = None
    """The fewest leading numbers of a vector that are a vector too (Matryoshka); None: all."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Role -> a pattern with {text} and perhaps {instruction}."""
    instruction: str | None = None
    """What fills {instruction} by default."""

    def wrap_query(self, text: str) -> str:
        """The text of a query as the models were trained to read it."""
        prompt = self.prompts.get("query", "{text}")
        return prompt.format(text=text, instruction=self.instruction)


FAMILIES: Mapping[str, str] = {
    "Builtin": "builtin",
    "CLIP": "clip",
    "CN-CLIP": "cn_clip",
    "SigLIP": "siglip",
    "Blip2": "blip2",
    "MobileCLIP": "mobileclip",
    "QwenText": "qwen_text",
}
"""The catalog's family -> its module beside this file, which is imported when it is needed. The
first family with a layout that fits a file is taken."""


ALL_FILES = "the settings in all files of a checkpoint are obeyed"
CHANGES: Mapping[str, Sequence[str]] = {
    "CLIP": (ALL_FILES,),
    "CN-CLIP": (ALL_FILES,),
    "SigLIP": (ALL_FILES, "images are resized with the filter that the checkpoint names"),
    "Blip2": (ALL_FILES,),
    "MobileCLIP": (ALL_FILES,),
    "QwenText": (ALL_FILES, "long texts take half the memory and time"),
}
"""What a conversion does now that one by an earlier version did not, oldest first. A manifest's
`rules` is how many of its family's changes the conversion knew; a new rule is added at the end."""


def find_family(name: str) -> Family:
    """Raises FamilyNotBuilt where this version has no family of that name."""
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise FamilyNotBuilt(f"unknown family {name!r}; available: {known}")
    family: Family = import_module(f"{__name__}.{FAMILIES[name]}").FAMILY
    return family
