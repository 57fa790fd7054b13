"""A checkpoint by name: a repository of the Hugging Face hub, or a folder -> the files to read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from multimodal_embedding_serving.checkpoints.modules import MODULES, Module, read_modules
from multimodal_embedding_serving.checkpoints.selection import (
    ADAPTER_WEIGHTS,
    DOCUMENTS,
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
from multimodal_embedding_serving.settings import unset_empty_hub_variables
from multimodal_embedding_serving.types import Progress, ignore_progress

HUB_PREFIX = "hf:"
MAX_CONFIG = 4 << 20
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
    """config.json or open_clip_config.json, parsed; None where there is neither."""
    tokenizer: Mapping[str, Path]
    """tokenizer.json and its settings, or the vocabulary to build it from; by base name."""
    repo: str | None
    """The hub's repository; None for a folder."""
    revision: str | None
    """The commit that the files are of; None for a folder."""
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The other JSON files, parsed, by their names below the first module's folder; those of
    further modules by `folder/config.json`."""
    modules: Sequence[Module] = ()
    """Of modules.json, where there is one."""
    parts: Mapping[str, Path] = field(default_factory=dict)
    """Weights of further modules and of an adapter, by name."""
    config_name: str | None = None
    """Which of `documents` the configuration is."""
    candidates: int = field(default=1, compare=False)
    """How many checkpoints there are to choose from."""
    names: Sequence[str] = field(default=(), compare=False)
    """All files beside the weights, for errors."""


def find_checkpoint(
    source: str | Path,
    *,
    revision: str | None = None,
    candidate: int = 0,
    progress: Progress = ignore_progress,
    access: HubAccess | None = None,
) -> CheckpointFiles:
    """The files of the checkpoint at `source`, downloaded if need be; nothing else is downloaded.

    Of several checkpoints in one place `candidate` is taken, counted in the order of
    `select_weights`. `source` is a folder, or a repository of the hub: `org/name`, `hf:org/name`,
    either with `@revision`. Without a network, cached files are taken. Raises CheckpointError
    (nothing fits: lists the files; a wrong hash) or RemoteFailed (the hub refused, or no response).
    """
    opened = find_source(source, revision=revision, access=access)
    choice = choose_files(opened, candidate)
    paths = opened.fetch(choice.names, progress)
    root = choice.root
    documents = {name: read_config(paths[root + name]) for name in choice.documents}
    documents |= {name: read_config(paths[name]) for name in choice.module_configs}
    config = None if choice.config is None else read_config(paths[root + choice.config])
    if choice.config is not None and config is not None:
        documents[choice.config] = config
    return CheckpointFiles(
        weights=tuple(paths[root + name] for name in choice.weights),
        layout=choice.layout,
        config=config,
        config_name=choice.config,
        tokenizer=MappingProxyType({name: paths[root + name] for name in choice.tokenizer}),
        repo=opened.repo,
        revision=opened.revision,
        documents=MappingProxyType(documents),
        modules=choice.modules,
        parts=MappingProxyType({name: paths[name] for name in choice.parts}),
        candidates=choice.candidates,
        names=opened.names,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which of a source's files make its checkpoint, by name below `root`."""

    layout: Layout
    weights: Sequence[str]
    config: str | None
    tokenizer: Sequence[str]
    documents: Sequence[str]
    root: str = ""
    """The first module's folder with its slash; empty: the top."""
    modules: Sequence[Module] = ()
    module_configs: Sequence[str] = ()
    """From the top, as `parts`."""
    parts: Sequence[str] = ()
    candidates: int = 1

    @property
    def names(self) -> list[str]:
        config = [self.config] if self.config else []
        below = [*self.weights, *self.tokenizer, *config, *self.documents]
        unique = dict.fromkeys(self.root + name for name in below)
        return [*unique, *self.module_configs, *self.parts]


def choose_files(opened: Source, candidate: int = 0) -> Choice:
    """Of weights in several files the index is fetched, to learn which they are.

    Raises CheckpointError or RemoteFailed, as `find_checkpoint`.
    """
    everything = opened.names
    modules: Sequence[Module] = ()
    if MODULES in everything:
        modules = read_modules(read_json(opened.fetch([MODULES], ignore_progress)[MODULES]))
    root = f"{modules[0].path}/" if modules and modules[0].path else ""
    names = [name.removeprefix(root) for name in everything if name.startswith(root)]
    selections = select_weights(names, opened.label if not root else f"{opened.label}: {root}")
    selection = selections[min(candidate, len(selections) - 1)]
    weights = list(selection.weights)
    if weights[0].endswith(INDEX_SUFFIX):
        index = opened.fetch([root + weights[0]], ignore_progress)[root + weights[0]]
        weights += sorted(set(read_index(index).values()))
    adapted = ADAPTER_WEIGHTS in names and ADAPTER_WEIGHTS not in weights
    dense = [module.path for module in modules[1:] if module.kind == "Dense"]
    choice = Choice(
        layout=selection.layout,
        weights=weights,
        config=select_config(names, selection.layout),
        tokenizer=select_tokenizer(names),
        documents=[name for name in DOCUMENTS if name in names],
        root=root,
        modules=modules,
        module_configs=[
            name for module in modules[1:] if (name := f"{module.path}/config.json") in everything
        ],
        parts=[*_dense_weights(dense, everything), *([root + ADAPTER_WEIGHTS] if adapted else [])],
        candidates=len(selections),
    )
    absent = [name for name in choice.names if name not in everything]
    if absent:
        raise CheckpointError(
            f"{opened.label} is missing {describe_names(absent)}, which its index lists; "
            f"found {describe_names(names)}"
        )
    return choice


def _dense_weights(paths: Sequence[str], names: Sequence[str]) -> list[str]:
    """The weights of each Dense module: the first of the two files that is there."""
    files = []
    for path in paths:
        spellings = [f"{path}/{name}" for name in ("model.safetensors", "pytorch_model.bin")]
        files += [name for name in spellings if name in names][:1] or spellings[:1]
    return files


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
    unset_empty_hub_variables()
    from multimodal_embedding_serving.checkpoints.download import find_repository

    return find_repository(repo, commit, access or HubAccess())


@dataclass(frozen=True, slots=True)
class HubClient:
    """How the hub's client is configured in this process."""

    endpoint: str
    cache: Path
    offline: bool


def describe_client() -> HubClient:
    """The hub's address and cache as this package uses them: an empty variable counts as unset."""
    unset_empty_hub_variables()
    from multimodal_embedding_serving.checkpoints import download

    access = HubAccess()
    return HubClient(
        download.find_endpoint(access), download.find_cache(access), download.is_offline()
    )


def split_repository(source: str) -> tuple[str, str | None]:
    """`org/name`, `hf:org/name`, either with `@revision` -> (repository, revision).

    Raises CheckpointError.
    """
    match = _REPO.fullmatch(source.removeprefix(HUB_PREFIX))
    if match is None:
        written = source.startswith(HUB_PREFIX)  # a folder's path is not for every caller
        shown = quote(source if written else Path(source).name)
        raise CheckpointError(f"{shown} is neither a folder nor a repository (org/name) of the hub")
    revision: str | None = match["revision"]
    if revision is not None and not _REVISION.fullmatch(revision):
        raise CheckpointError(f"{match['repo']}: {quote(revision)} is not a valid revision")
    return match["repo"], revision


def read_config(path: Path) -> Mapping[str, Any]:
    """A JSON object. Raises CheckpointError naming the file."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name}: not a JSON object")
    return content


def read_json(path: Path) -> object:
    """A JSON document of a bounded size. Raises CheckpointError naming the file."""
    try:
        if path.stat().st_size > MAX_CONFIG:
            raise CheckpointError(f"{path.name}: larger than {MAX_CONFIG} bytes")
        content: object = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path.name}: can't be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path.name}: not valid JSON") from None
    return content
