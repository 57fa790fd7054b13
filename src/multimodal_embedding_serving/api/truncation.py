"""The `truncate` field: what to do with a text that exceeds the model's maximum length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from multimodal_embedding_serving.engine.results import EmbeddingResult
from multimodal_embedding_serving.errors import InvalidInput

Truncate = Literal["NONE", "END"]
"""END, the default, drops the end of the text; NONE fails the request."""


def check_truncation(results: Sequence[EmbeddingResult], truncate: Truncate | bool | None) -> None:
    """Raise InvalidInput if a text was truncated although `truncate` is NONE or false."""
    if truncate not in ("NONE", False):
        return
    for index, result in enumerate(results):
        if result.truncated:
            message = "text exceeds the model's maximum length; use truncate=END to truncate it"
            place = index if len(results) > 1 else None
            raise InvalidInput(message, index=place, param="truncate")
