"""What a shell completes beside commands and options.

Where nothing is offered, bash and zsh complete files by themselves, with their own rules for `~`
and quotes.
"""

from __future__ import annotations

from multimodal_embedding_serving.catalog import MODELS


def complete_model(incomplete: str) -> list[str]:
    """Ids of the catalog, by their beginning or that of their name; nothing for a path."""
    start = incomplete.lower()
    if start.startswith((".", "/", "~")):
        return []
    return [
        spec.id
        for spec in MODELS
        if spec.id.lower().startswith(start) or spec.name.lower().startswith(start)
    ]
