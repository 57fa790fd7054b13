"""The types that all layers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

Modality = Literal["text", "image"]
"""The two towers. A video is embedded as frames, so its modality is image."""


class Portion(float):
    """Progress from 0 to 1 that is measured in bytes, such as that of a download."""

    size: int
    """Total bytes; 0 if unknown."""

    def __new__(cls, done: int, size: int) -> Self:
        portion = super().__new__(cls, done / size if size else 1.0)
        portion.size = size
        return portion


Progress = Callable[[str, float], None]
"""Called with (stage, share of the stage that is done: 0 to 1)."""


def ignore_progress(stage: str, share: float) -> None:
    """The callback of callers that do not show progress."""


Stage = Literal["fetch", "decode", "wait", "compute"]
"""What takes an item's time: fetching its URL, decoding and preprocessing it, waiting for a batch,
and the graph's call."""

StageTimer = Callable[[Stage, float], None]
"""Called with a stage that has ended and the seconds it took, on any thread."""


def ignore_stage(stage: Stage, seconds: float) -> None:
    """The callback of callers that do not measure stages."""


Row = NDArray[Any]
"""One item as a graph takes it: int32 [tokens] ids, or uint8 [height, width, 3] RGB."""

Vector = NDArray[np.float32]
"""float32 [dimension], L2-normalized."""

Vectors = NDArray[np.float32]
"""float32 [items, dimension], rows L2-normalized."""


@dataclass(frozen=True, slots=True)
class Features:
    """One prepared item on its way to the batcher."""

    row: Row
    cost: int
    """Cost to the graph, after padding: tokens for a text, patches for an image."""
    tokens: int
    """What `usage` reports: text tokens, or image patches."""
    truncated: bool = False
    """The text was longer than the model's limit and was truncated."""
    more: tuple[Features, ...] = ()
    """The other windows of a text that is longer than the graph's sequence length."""
    covers: int = 1
    """Of a window: how many of its tokens are in no earlier window."""
    on_vector: Callable[[Vector], None] | None = None
    """Called with the item's vector before the request gets it."""


class Graph(Protocol):
    """A compiled tower. Calls are thread-safe; up to `parallel` of them run at the same time."""

    dimension: int
    parallel: int
    precision: str
    """Inference precision: f32, bf16 or f16."""

    def __call__(self, rows: Sequence[Row]) -> Vectors:
        """Embed rows as one batch -> float32 [len(rows), dimension]. Text rows are padded here."""
        ...

    def close(self) -> None: ...
