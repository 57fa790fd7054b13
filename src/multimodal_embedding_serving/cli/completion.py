"""What a shell completes beside commands and options: models, and files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from multimodal_embedding_serving.catalog import MODELS


def complete_model(incomplete: str) -> list[str]:
    """Ids of the catalog, by their beginning or that of their name; and folders."""
    start = incomplete.lower()
    ids = [
        spec.id
        for spec in MODELS
        if spec.id.lower().startswith(start) or spec.name.lower().startswith(start)
    ]
    folders = incomplete.startswith((".", "/", "~")) or not ids
    return ids + (list(complete_path(incomplete, files=False)) if folders else [])


def complete_input(incomplete: str) -> list[str]:
    """Files and folders."""
    return list(complete_path(incomplete))


def complete_model_or_file(incomplete: str) -> list[str]:
    """Models, then files and folders."""
    models = [name for name in complete_model(incomplete) if not name.endswith("/")]
    return models + complete_input(incomplete)


def complete_path(incomplete: str, *, files: bool = True) -> Iterator[str]:
    """Paths that begin so; a folder ends with a slash. Hidden ones only if asked for."""
    head, start = os.path.split(incomplete)
    folder = Path(head).expanduser() if head else Path()
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        hidden = entry.name.startswith(".") and not start.startswith(".")
        if entry.name.startswith(start) and not hidden:
            path = os.path.join(head, entry.name)  # noqa: PTH118 - keeps `./` and `~`
            if entry.is_dir():
                yield f"{path}/"
            elif files:
                yield path
