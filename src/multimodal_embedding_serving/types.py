"""The few types that every layer shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

Modality = Literal["text", "image"]
"""The two towers. Video is frames, and its modality is image."""


class Portion(float):
    """A share from 0 to 1 of bytes that are counted, such as a download's."""

    size: int
    """All of the bytes; 0 where nobody knows."""

    def __new__(cls, done: int, size: int) -> Self:
        portion = super().__new__(cls, done / size if size else 1.0)
        portion.size = size
        return portion


Progress = Callable[[str, float], None]
"""Hears (what is being done, which share of that is done: from 0 to 1)."""


def ignore_progress(stage: str, share: float) -> None:
    """For callers who do not ask how far it is."""


Row = NDArray[Any]
"""One item as its graph takes it: int32 [tokens] ids, or uint8 [height, width, 3] RGB."""

Vector = NDArray[np.float32]
"""float32 [dimension], L2-normalised."""

Vectors = NDArray[np.float32]
"""float32 [items, dimension], rows L2-normalised."""


@dataclass(frozen=True, slots=True)
class Features:
    """One prepared item on its way to the batcher."""

    row: Row
    cost: int
    """What the item costs the graph once padded: tokens for text, patches for an image."""
    tokens: int
    """What `usage` counts: text tokens, or an image's patches."""
    truncated: bool = False
    """The text was longer than the model's limit and was cut."""
    more: tuple[Features, ...] = ()
    """The further windows of a text that is longer than its graph."""
    covers: int = 1
    """Of a window: tokens that no window before it has."""
    on_vector: Callable[[Vector], None] | None = None
    """Hears the item's vector before its request does."""


class Graph(Protocol):
    """A compiled tower. Calls are thread-safe; up to `parallel` of them make progress at once."""

    dimension: int
    parallel: int
    precision: str
    """What it computes in: f32, bf16, f16."""

    def __call__(self, rows: Sequence[Row]) -> Vectors:
        """Embed rows as one batch (text rows are padded here) -> float32 [len(rows), dimension]."""
        ...

    def close(self) -> None: ...
