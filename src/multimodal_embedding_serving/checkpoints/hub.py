"""A checkpoint by name: a repository of the Hugging Face hub, or a folder -> the files to read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from multimodal_embedding_serving.checkpoints.selection import (
    Layout,
    describe_names,
    select_config,
    select_tokenizer,
    select_weights,
)
from multimodal_embedding_serving.checkpoints.shards import INDEX_SUFFIX, read_index
from multimodal_embedding_serving.checkpoints.sources import Folder, HubAccess, Source
from multimodal_embedding_serving.checkpoints.weights import quote
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.types import Progress, ignore_progress

HUB_PREFIX = "hf:"
PREPROCESSOR = "preprocessor_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
MAX_CONFIG = 4 << 20
NUMBER = {int, float}
_REPO = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>.+))?")
_REVISION = re.compile(r"(?!.*\.\.)\w[\w./-]*")
"""A commit, tag or branch; it becomes a path in the client's cache, so no way up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFiles:
    """The files of one checkpoint, all on this disk."""

    weights: tuple[Path, ...]
    """What `read_weights` takes: one file, or all shards with their index first."""
    layout: Layout
    """Whose tensor names to expect: a hint from the files' names."""
    config: Mapping[str, Any] | None
    """config.json or open_clip_config.json, parsed; None where there is neither. image_mean and
    image_std of preprocessor_config.json are added, and padding_side of tokenizer_config.json."""
    tokenizer: Mapping[str, Path]
    """tokenizer.json and its settings, or the vocabulary to build it from; by base name."""
    repo: str | None
    """The hub's repository; None for a folder."""
    revision: str | None
    """The commit that the files are of; None for a folder."""


def find_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    progress: Progress = ignore_progress,
    access: HubAccess | None = None,
) -> CheckpointFiles:
    """The files of the checkpoint at `source`, downloaded if need be; nothing else is downloaded.

    `source` is a folder, or a repository of the hub: `org/name`, `hf:org/name`, either with
    `@revision`. Without a network, files that are cached already are taken. Raises CheckpointError
    (nothing fits: lists the files; a wrong hash) or RemoteFailed (the hub refused, or no response).
    """
    opened = find_source(source, revision=revision, access=access)
    choice = choose_files(opened)
    paths = opened.fetch(choice.names, progress)
    return CheckpointFiles(
        weights=tuple(paths[name] for name in choice.weights),
        layout=choice.layout,
        config=_describe(paths, choice.config, choice.pixels) if choice.config else None,
        tokenizer=MappingProxyType({name: paths[name] for name in choice.tokenizer}),
        repo=opened.repo,
        revision=opened.revision,
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """Which of a source's files make its checkpoint, by name."""

    layout: Layout
    weights: Sequence[str]
    config: str | None
    tokenizer: Sequence[str]
    pixels: Sequence[str]

    @property
    def names(self) -> list[str]:
        config = [self.config] if self.config else []
        return [*self.weights, *self.tokenizer, *config, *self.pixels]


def choose_files(opened: Source) -> Choice:
    """Of weights in several files the index is fetched, to learn which they are.

    Raises CheckpointError or RemoteFailed, as `find_checkpoint`.
    """
    names = opened.names
    selection = select_weights(names, opened.label)
    config = select_config(names, selection.layout)
    weights = list(selection.weights)
    if weights[0].endswith(INDEX_SUFFIX):
        index = opened.fetch(weights, ignore_progress)[weights[0]]
        weights += sorted(set(read_index(index).values()))
    pixels = [PREPROCESSOR] if config and PREPROCESSOR in names else []
    choice = Choice(selection.layout, weights, config, select_tokenizer(names), pixels)
    absent = [name for name in choice.names if name not in names]
    if absent:
        raise CheckpointError(
            f"{opened.label} is missing {describe_names(absent)}, which its index lists; "
            f"found {describe_names(names)}"
        )
    return choice


def missing_bytes(source: str | Path, *, access: HubAccess | None = None) -> int:
    """What `find_checkpoint` would download, in bytes. Raises as it does."""
    opened = find_source(source, access=access)
    return opened.missing(choose_files(opened).names)


def find_tokenizer(
    source: str | Path,
    *,
    revision: str | None = None,
    progress: Progress = ignore_progress,
    access: HubAccess | None = None,
) -> Mapping[str, Path]:
    """The tokenizer's files alone, by base name, for a model whose own repository has none.

    Raises CheckpointError listing the files, or RemoteFailed.
    """
    opened = find_source(source, revision=revision, access=access)
    names = select_tokenizer(opened.names)
    if not names:
        raise CheckpointError(
            f"{opened.label} has no tokenizer; expected tokenizer.json, vocab.txt, or vocab.json "
            f"with merges.txt; found {describe_names(opened.names)}"
        )
    return MappingProxyType(opened.fetch(names, progress))


def find_source(
    source: str | Path, *, revision: str | None = None, access: HubAccess | None = None
) -> Source:
    """A folder where there is one of that name, else a repository of the hub."""
    text = str(source)
    if isinstance(source, Path) or not text.startswith(HUB_PREFIX):
        path = Path(source).expanduser()
        if text and path.is_dir():
            return Folder(path, f"the folder {quote(path.name)}")
    if isinstance(source, Path):
        raise CheckpointError(f"{quote(source.name)} is not a folder")
    repo, commit = split_repository(text)
    if revision is not None:
        repo, commit = split_repository(f"{repo}@{revision}")
    # The client is heavy to import, and a folder needs none of it.
    from multimodal_embedding_serving.checkpoints.download import find_repository

    return find_repository(repo, commit, access or HubAccess())


def split_repository(source: str) -> tuple[str, str | None]:
    """`org/name`, `hf:org/name`, either with `@revision` -> (repository, revision).

    Raises CheckpointError.
    """
    match = _REPO.fullmatch(source.removeprefix(HUB_PREFIX))
    if match is None:
        shown = quote(Path(source).name)
        raise CheckpointError(f"{shown} is neither a folder nor a repository (org/name) of the hub")
    revision: str | None = match["revision"]
    if revision is not None and not _REVISION.fullmatch(revision):
        raise CheckpointError(f"{match['repo']}: {quote(revision)} is not a valid revision")
    return match["repo"], revision


def _describe(paths: Mapping[str, Path], config: str, pixels: Sequence[str]) -> Mapping[str, Any]:
    told = dict(read_config(paths[config]))
    for name in pixels:
        for key, value in read_config(paths[name]).items():
            if key in ("image_mean", "image_std"):
                if not (
                    isinstance(value, list) and len(value) == 3 and {*map(type, value)} <= NUMBER
                ):
                    raise CheckpointError(f"{name}: {key} must be a list of three numbers")
                told.setdefault(key, value)
    if TOKENIZER_CONFIG in paths:
        side = read_config(paths[TOKENIZER_CONFIG]).get("padding_side")
        told |= {"padding_side": side} if side in ("left", "right") else {}
    return told


def read_config(path: Path) -> Mapping[str, Any]:
    """A JSON object. Raises CheckpointError naming the file."""
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise CheckpointError(f"{path.name}: larger than {MAX_CONFIG} bytes")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path.name}: can't be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path.name}: not valid JSON") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name}: not a JSON object")
    return content
