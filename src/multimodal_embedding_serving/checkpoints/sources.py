"""Where the files of a checkpoint come from: a folder, or the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.types import Progress

MODULE_FOLDER = re.compile(r"\d+_")
"""Folders of sentence-transformers' modules begin so; others are not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubAccess:
    """Where the hub is and who asks; None: as the client's own environment says.

    (HF_ENDPOINT, HF_HOME, HF_TOKEN, HF_HUB_OFFLINE and the rest are huggingface_hub's to read.)
    """

    endpoint: str | None = None
    cache: Path | None = None
    token: str | None = None


class Source(Protocol):
    """Files by name, wherever they are."""

    @property
    def label(self) -> str:
        """What errors call it."""
        ...

    @property
    def repo(self) -> str | None: ...

    @property
    def revision(self) -> str | None: ...

    @property
    def names(self) -> Sequence[str]: ...

    def fetch(self, names: Sequence[str], progress: Progress) -> dict[str, Path]:
        """The files on this disk. Raises CheckpointError or RemoteFailed naming source and file."""
        ...

    def missing(self, names: Sequence[str]) -> int:
        """Bytes of these files that are not on this disk."""
        ...


@dataclass(frozen=True, slots=True)
class Folder:
    """Files that are here already: nothing is copied, nothing is checked but the names."""

    path: Path
    label: str
    repo: str | None = None
    revision: str | None = None

    @property
    def names(self) -> Sequence[str]:
        try:
            entries = list(self.path.iterdir())
            inner = [
                f"{entry.name}/{each.name}"
                for entry in entries
                if MODULE_FOLDER.match(entry.name) and entry.is_dir()
                for each in entry.iterdir()
                if each.is_file()
            ]
            return sorted([*inner, *(entry.name for entry in entries if entry.is_file())])
        except OSError as error:
            raise CheckpointError(f"{self.label} can't be read ({error.strerror})") from None

    def fetch(self, names: Sequence[str], progress: Progress) -> dict[str, Path]:
        return {name: self.path / name for name in names}

    def missing(self, names: Sequence[str]) -> int:
        return 0
