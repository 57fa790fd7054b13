"""The fields that say what to do with a text that exceeds the model's maximum length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from multimodal_embedding_serving.engine.results import EmbeddingResult
from multimodal_embedding_serving.errors import InvalidInput

Truncate = Literal["NONE", "END"]
"""END, the default, drops the end of the text; NONE fails the request."""


def check_truncation(
    results: Sequence[EmbeddingResult], truncate: Truncate | bool | None, field: str = "truncate"
) -> None:
    """Raise InvalidInput if a text was truncated although the field's value is NONE or false."""
    if truncate not in ("NONE", False):
        return
    for index, result in enumerate(results):
        if result.truncated:
            allowing = "true" if truncate is False else "END"
            message = (
                f"text exceeds the model's maximum length; use {field}={allowing} to truncate it"
            )
            place = index if len(results) > 1 else None
            raise InvalidInput(message, index=place, param=field)
