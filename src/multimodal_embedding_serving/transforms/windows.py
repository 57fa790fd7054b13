"""Splits a text that is longer than its graph into windows, and joins their vectors.

To the model, each window is a text of its own: it starts with the prompt and ends with the end
token. Windows overlap, so that a sentence cut at the end of one is whole in the next. A window is
weighted by the tokens that no earlier window contains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from multimodal_embedding_serving.types import Vector

OVERLAP_DIVISOR = 10
"""The next window repeats one tenth of a window's text."""


@dataclass(frozen=True, slots=True)
class Window:
    ids: list[int]
    """Token ids, at most as many as the graph takes."""
    covers: int
    """Tokens of the text that no earlier window contains."""


def split_windows(ids: Sequence[int], prompt: Sequence[int], length: int) -> list[Window]:
    """Split a text's ids, which end with the end token, into windows of at most `length` ids.

    `ids` start with the prompt, whose own ids are `prompt`; where prompt and text meet, the
    tokenizer may have merged tokens that are separate in `prompt`. The first window is the text
    truncated to `length`. Raises ValueError if the prompt and the end token leave no room.
    """
    room = length - len(prompt) - 1
    if room < 1:
        raise ValueError(f"a prompt of {len(prompt)} tokens leaves no room for text in {length}")
    end = ids[-1]
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, prompt)))  # noqa: B905
    text = ids[start:-1]
    covered = min(len(text), length - 1 - start)
    windows = [Window([*ids[: start + covered], end], covered)]
    while covered < len(text):
        place = covered - room // OVERLAP_DIVISOR
        part = text[place : place + room]
        windows.append(Window([*prompt, *part, end], place + len(part) - covered))
        covered = place + len(part)
    return windows


def join_windows(vectors: Sequence[Vector], covers: Sequence[int]) -> Vector:
    """The mean of the windows' unit vectors, weighted by the tokens they cover, normalized."""
    mean = np.average(np.stack(vectors), axis=0, weights=covers)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)
