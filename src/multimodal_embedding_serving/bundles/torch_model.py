"""A checkpoint that torch serves directly: the second form in which models are served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from multimodal_embedding_serving.bundles.bundle import Manifest
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.types import Modality


@dataclass(frozen=True, slots=True)
class TorchModel:
    """A checkpoint without a bundle: its manifest is in memory, and its graphs are tower specs."""

    plans: Mapping[Modality, TowerSpec]
    manifest: Manifest
    tokenizer: str | None
    """The text of tokenizer.json."""
