"""A checkpoint that torch serves as it is: the second form a model is served from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from multimodal_embedding_serving.bundles.bundle import Manifest
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.types import Modality


@dataclass(frozen=True, slots=True)
class TorchModel:
    """A checkpoint that is served as it is: its manifest is in memory, its graphs are plans."""

    plans: Mapping[Modality, TowerSpec]
    manifest: Manifest
    tokenizer: str | None
    """The text of tokenizer.json."""
