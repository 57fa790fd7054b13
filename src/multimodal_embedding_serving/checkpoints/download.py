"""Repositories of the hub, by the hub's own client: listed, downloaded into its cache, verified."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any, Self

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub import errors as hub
from huggingface_hub.file_download import repo_folder_name

from multimodal_embedding_serving.checkpoints.hub_errors import (
    HUB_ERRORS,
    explain,
    seconds_to_wait,
)
from multimodal_embedding_serving.checkpoints.sources import Folder, HubAccess, Source
from multimodal_embedding_serving.errors import CheckpointError, EmbeddingError
from multimodal_embedding_serving.types import Portion, Progress

DISTRIBUTION = "multimodal-embedding-serving"
DOWNLOAD, VERIFY = "downloading the checkpoint", "verifying the download"
BLOCK = 4 << 20
ATTEMPTS = 3
"""At one file whose connection is reset: the client resumes by itself after a clean end only."""
DEFAULT_ENDPOINT = "https://huggingface.co"
METERED = "tqdm_class" in signature(hf_hub_download).parameters
"""Whether the client reports the bytes of a file as they arrive: before 1.0, it does not."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as the hub lists it."""

    size: int
    """In bytes; 0 where a mirror does not say."""
    sha256: str | None
    """Of large files, which git keeps elsewhere."""
    git_sha1: str | None
    """Of all others: git's hash of the file."""

    def matches(self, path: Path, advance: Callable[[int], None]) -> bool:
        """Whether the file on this disk has the hash; `advance` receives the bytes read."""
        expected = self.sha256 or self.git_sha1
        if expected is None:
            return True
        digest = hashlib.sha256()
        if self.sha256 is None:
            start = f"blob {path.stat().st_size}\0".encode()
            digest = hashlib.sha1(start, usedforsecurity=False)
        with path.open("rb") as content:
            while block := content.read(BLOCK):
                digest.update(block)
                advance(len(block))
        return digest.hexdigest() == expected


def find_repository(repo: str, revision: str | None, access: HubAccess) -> Source:
    """The repository at one commit; where the hub can't say, what is cached of it.

    Raises RemoteFailed or CheckpointError naming the repository.
    """
    # The client reports its environment with each request, and asks for what to look for, unless
    # disabled. This package reports nothing to anybody.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    commit = revision or constants.DEFAULT_REVISION
    try:
        return _list(repo, commit, access)
    except HUB_ERRORS as error:
        what = repo if revision is None else f"{repo} at {revision}"
        refusal = explain(error, what)
        if isinstance(error, hub.RevisionNotFoundError):
            raise refusal from None
    cached = _find_cached(repo, commit, access, refusal)
    if cached is None:
        raise refusal
    return cached


def _list(repo: str, revision: str, access: HubAccess) -> Repository:
    api = HfApi(
        endpoint=find_endpoint(access),
        token=access.token,
        library_name=DISTRIBUTION,
        library_version=version(DISTRIBUTION),
    )
    info = api.model_info(
        repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
    )
    files = {
        sibling.rfilename: RemoteFile(
            sibling.size or 0, sibling.lfs.sha256 if sibling.lfs else None, sibling.blob_id
        )
        for sibling in info.siblings or ()
    }
    if not _COMMIT.fullmatch(info.sha or "") or not files:
        raise ValueError("an answer without commit and files")
    return Repository(repo, str(info.sha), revision, files, access)


def find_endpoint(access: HubAccess) -> str:
    """The hub's address. The client takes an empty HF_ENDPOINT for an address."""
    return access.endpoint or constants.ENDPOINT or DEFAULT_ENDPOINT


def find_cache(access: HubAccess) -> Path:
    """The folder of the client's cache; an empty HF_HOME or HF_HUB_CACHE counts as unset.

    The client reads them when it is first imported, and takes an empty one for the working
    directory.
    """
    if access.cache is not None:
        return access.cache
    home, cache = constants.HF_HOME, constants.HF_HUB_CACHE
    if cache and (home or Path(cache).is_absolute()):
        return Path(cache)
    return Path(home or Path(constants.default_home, "huggingface"), "hub")


def _find_cached(
    repo: str, revision: str, access: HubAccess, refusal: EmbeddingError
) -> Folder | None:
    try:
        path = snapshot_download(
            repo, revision=revision, cache_dir=find_cache(access), local_files_only=True
        )
    except HUB_ERRORS as error:
        # Of newer clients: part of the repository is there; the files that we need may be.
        path = str(getattr(error, "snapshot_path", ""))
        if not path:
            return None
    snapshot = Path(path)
    return Folder(snapshot, f"the hub's cache ({refusal})", repo, snapshot.name)


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE is set."""
    return bool(constants.HF_HUB_OFFLINE)


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of the hub at one commit, with its listing."""

    repo: str
    revision: str
    asked: str
    """The revision as it was asked for: a branch, a tag or the commit."""
    files: Mapping[str, RemoteFile]
    access: HubAccess

    @property
    def label(self) -> str:
        return self.repo

    @property
    def names(self) -> Sequence[str]:
        return sorted(self.files)

    def fetch(self, names: Sequence[str], progress: Progress) -> dict[str, Path]:
        """The files, cached or downloaded and verified."""
        total = sum(self.files[name].size for name in names)
        paths = {name: path for name in names if (path := self._find_cached(name)) is not None}
        fresh = [name for name in names if name not in paths]
        needed = sum(self.files[name].size for name in fresh)
        self._check_space(needed)
        done = total - needed
        progress(DOWNLOAD, Portion(done, total))
        for name in fresh:
            paths[name] = self._download(name, done, total, progress)
            done += self.files[name].size
            progress(DOWNLOAD, Portion(done, total))
        self._verify({name: paths[name] for name in fresh}, progress)
        self._remember()
        return {name: paths[name] for name in names}

    def missing(self, names: Sequence[str]) -> int:
        return sum(self.files[name].size for name in names if self._find_cached(name) is None)

    def _find_cached(self, name: str) -> Path | None:
        path = self._folder / "snapshots" / self.revision / name
        sizes = (0, path.stat().st_size) if path.is_file() else ()
        return path if self.files[name].size in sizes else None

    @property
    def _folder(self) -> Path:
        return find_cache(self.access) / repo_folder_name(repo_id=self.repo, repo_type="model")

    def _check_space(self, needed: int) -> None:
        place = find_cache(self.access)
        while not place.exists():
            place = place.parent
        free = shutil.disk_usage(place).free
        if needed > free:
            raise CheckpointError(
                f"{self.repo}: {needed / 1e9:.1f} GB to download, {free / 1e9:.1f} GB free on the "
                "disk of the hub's cache (HF_HOME)"
            )

    def _download(self, name: str, done: int, total: int, progress: Progress) -> Path:
        attempt = 0
        while True:
            attempt += 1
            arrived = _count(DOWNLOAD, done, total, progress)
            meter: dict[str, Any] = {"tqdm_class": _meter(arrived)} if METERED else {}
            try:
                path = hf_hub_download(
                    self.repo,
                    name,
                    revision=self.revision,
                    endpoint=find_endpoint(self.access),
                    token=self.access.token,
                    cache_dir=find_cache(self.access),
                    library_name=DISTRIBUTION,
                    library_version=version(DISTRIBUTION),
                    **meter,
                )
            except HUB_ERRORS as error:
                wait = seconds_to_wait(error)
                if attempt == ATTEMPTS or wait is None:
                    raise explain(error, f"{self.repo}: {name}") from None
                time.sleep(wait)
                continue
            return Path(path)

    def _verify(self, paths: Mapping[str, Path], progress: Progress) -> None:
        """The client checks sizes, not hashes. A file that fails is removed from its cache."""
        read = _count(VERIFY, 0, sum(self.files[name].size for name in paths), progress)
        for name, path in paths.items():
            if not self.files[name].matches(path, read):
                path.resolve().unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                raise CheckpointError(
                    f"{self.repo}: {name} does not match the hash that the hub lists: the file was "
                    "damaged in transit and has been removed; try again"
                )

    def _remember(self) -> None:
        """Which commit the branch or tag meant, so that the cache answers without a network.

        (The client notes this by itself only for downloads by branch, and those may mix commits.)
        """
        if self.asked != self.revision:
            reference = self._folder / "refs" / self.asked
            with contextlib.suppress(OSError):  # a cache may be read-only, and complete
                reference.parent.mkdir(parents=True, exist_ok=True)
                reference.write_text(self.revision)


def _count(stage: str, done: int, total: int, progress: Progress) -> Callable[[int], None]:
    """Increments in bytes -> the shares that `progress` takes."""

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(stage, Portion(done, total))

    return advance


def _meter(advance: Callable[[int], None]) -> type[Any]:
    """What the client takes for a progress bar: a class with the parts of tqdm's that it uses."""

    class Meter:
        def __init__(self, *_: object, total: int | None = None, **__: object) -> None:
            self.total = total

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def update(self, count: float | None = 1) -> None:
            advance(int(count or 0))

        # With these two, the client's chunked transfer counts the bytes of a file once.
        def update_transfer(self, count: float | None = 1) -> None: ...

        def set_transfer_postfix_str(self, *_: object, **__: object) -> None: ...

        def set_postfix_str(self, *_: object, **__: object) -> None: ...

        def close(self) -> None: ...

    return Meter
