"""Checkpoints of true size that take no memory, and an emitter that computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from multimodal_embedding_serving.checkpoints.weights import StoredTensor, Weights
from multimodal_embedding_serving.families import Checkpoint
from multimodal_embedding_serving.families.registry import find_family
from tests.parity.small import Shape, read_layout


def hollow_tensor(name: str, shape: Shape) -> StoredTensor:
    """One element, seen at every place."""
    data = np.broadcast_to(np.float32(0.5), shape)
    return StoredTensor(name, "F32", shape, data, "model.safetensors")


def hollow_weights(
    model: str, layout: str, *, prefix: str = "", extra: Mapping[str, Shape] | None = None
) -> Weights:
    """A row's checkpoint as its file lists it."""
    shapes = dict(read_layout(model, layout)) | (dict(extra) if extra else {})
    tensors = {prefix + name: hollow_tensor(name, shape) for name, shape in shapes.items()}
    return Weights(tensors, file="model.safetensors")


class UsedWeights(Weights):
    """Remembers which tensors were taken."""

    def __init__(self, weights: Weights, used: set[str], prefix: str = "") -> None:
        super().__init__(dict(weights), file=weights.file, prefix=prefix)
        self.used, self.prefix = used, prefix

    def __getitem__(self, name: str) -> StoredTensor:
        tensor = super().__getitem__(name)
        self.used.add(self.prefix + name)
        return tensor

    def sub(self, prefix: str) -> Weights:
        return UsedWeights(super().sub(prefix), self.used, self.prefix + prefix)


class HollowOps:
    """Every operation, computing nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self


def unused_tensors(family: str, checkpoint: Checkpoint) -> set[str]:
    """Names that no tower of the family asks for."""
    used: set[str] = set()
    weights = UsedWeights(checkpoint.weights, used)
    used.clear()  # copying the weights touched all of them
    for plan in find_family(family)(replace(checkpoint, weights=weights)):
        plan.build(HollowOps(), dict.fromkeys(plan.inputs, HollowOps()))
    return set(checkpoint.weights) - used
