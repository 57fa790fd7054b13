"""The model families: how a checkpoint becomes towers. They run to make a graph, never to serve.

A family is one function, `plan(checkpoint) -> [TowerSpec, …]`, in a file of its own that reads
like the paper, over the operations of `graph/ops.py`. `registry.py` lists the families.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multimodal_embedding_serving.catalog import ModelSpec
from multimodal_embedding_serving.checkpoints.weights import Weights
from multimodal_embedding_serving.types import Modality


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint, opened: tensors under the transformers library's names, and its config."""

    weights: Weights
    config: Mapping[str, Any]
    """config.json with the upstream defaults filled in, or what stands for it."""
    spec: ModelSpec | None
    """The catalog's row; None for a checkpoint that is not in it."""


@dataclass(frozen=True, slots=True)
class TowerSpec:
    """One tower, ready to be emitted."""

    modality: Modality
    inputs: Mapping[str, int | None]
    """input_ids and attention_mask (None), or pixels (its side)."""
    build: Callable[[Any, Mapping[str, Any]], Any]
    """(ops, inputs by name) -> the embedding [B, dimension], L2-normalised."""
    transform: Mapping[str, Any]
    """What comes before the graph: the manifest form of ImageTransform or TextTransform."""
    dimension: int
    storage: Mapping[str, Any] = field(default_factory=dict)
    """Forms of storage that this tower wants other than the asked ones, by kind of weight."""


BuildTowers = Callable[[Checkpoint], Sequence[TowerSpec]]
"""What a family is: its `plan`."""
