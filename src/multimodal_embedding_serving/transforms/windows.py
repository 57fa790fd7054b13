"""A text that is longer than its graph, in windows, and one vector from theirs.

Each window is a text of its own to the model: it starts with the prompt and ends with the token
that ends a text. Windows overlap, so that no sentence is only seen cut; a window counts for the
tokens that no window before it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import numpy as np

from multimodal_embedding_serving.types import Vector

OVERLAP = 10
"""The part of a window's text, one in so many, that the next window repeats."""


@dataclass(frozen=True, slots=True)
class Window:
    ids: list[int]
    """At most as many as the graph takes."""
    covers: int
    """Tokens of the text that no window before it has."""


def cut_windows(ids: Sequence[int], prompt: Sequence[int], length: int) -> list[Window]:
    """A text's ids, the last of which ends it -> windows of at most `length` ids.

    `ids` may start with the prompt, whose own ids are `prompt`: at their seam the tokenizer may
    have joined what stands apart here. The first window is what a cut at `length` would leave.
    Raises ValueError where the prompt and the end leave no room.
    """
    room = length - len(prompt) - 1
    if room < 1:
        raise ValueError(f"a prompt of {len(prompt)} tokens leaves no room in {length}")
    end = ids[-1]
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, prompt)))  # noqa: B905
    text = ids[start:-1]
    covered = min(len(text), length - 1 - start)
    windows = [Window([*ids[: start + covered], end], covered)]
    while covered < len(text):
        place = covered - room // OVERLAP
        part = text[place : place + room]
        windows.append(Window([*prompt, *part, end], place + len(part) - covered))
        covered = place + len(part)
    return windows


def join_windows(vectors: Sequence[Vector], covers: Sequence[int]) -> Vector:
    """The mean of the windows' unit vectors, each as often as tokens it covers, at unit length."""
    mean = np.average(np.stack(vectors), axis=0, weights=covers)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)
