"""What `truncate` asks for where a text is longer than the model's limit: words, or booleans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from multimodal_embedding_serving.engine.results import EmbeddingResult
from multimodal_embedding_serving.errors import InvalidInput

Truncate = Literal["NONE", "END"]
"""END, which is what happens by itself: the text's end is left out. NONE: the request fails."""


def check_truncation(answers: Sequence[EmbeddingResult], truncate: Truncate | bool | None) -> None:
    """Raises InvalidInput naming the input, where a text was cut and must not be."""
    if truncate not in ("NONE", False):
        return
    for index, answer in enumerate(answers):
        if answer.truncated:
            message = "a text is longer than the model reads; truncate=END cuts it"
            place = index if len(answers) > 1 else None
            raise InvalidInput(message, index=place, param="truncate")
