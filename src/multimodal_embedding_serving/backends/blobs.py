"""Compiled blobs: what OpenVINO keeps of a compiled graph, so that the next start only reads it.

OpenVINO names and writes the blobs itself and reads them unchecked: a flipped bit is served. So
each graph, in each form in which it is compiled, has a folder of its own, in which
`checksums.json` has the checksum of every blob. A folder in which anything differs is emptied, and
OpenVINO compiles again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from multimodal_embedding_serving.bundles.checksums import checksums, open_json, seal_json

log = logging.getLogger(__name__)

BLOBS = "graph-"
"""How the name of a graph's folder starts."""
RECORD = "checksums.json"
LOCK = "lock"
LOCK_SECONDS = 600
"""How long to wait for another process that compiles the same graph."""

States = list[tuple[str, int, int]]


@contextmanager
def checked_blobs(folder: Path, *, check: bool = True) -> Iterator[bool]:
    """Hold a folder of blobs that are as they were written; record those that are new afterwards.

    Yields whether the folder can be used: not if its blobs can't be checked, replaced or recorded.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        lock.acquire(timeout=LOCK_SECONDS)
    except Timeout:
        log.warning("another process holds the compiled graphs for too long; compiling without")
        yield False
        return
    except OSError as error:  # a folder that may only be read: whole blobs are of use all the same
        usable = _is_whole(folder, check=check)
        if not usable:
            log.warning(
                "cannot store compiled graphs in %s: %s; set EMBEDDING_OV_CACHE_DIR to a writable "
                "folder",
                folder,
                error.strerror,
            )
        yield usable
        return
    try:
        try:
            before = _prepare(folder, check=check)
        except OSError as error:
            log.warning("cannot use the compiled graphs: %s", error.strerror)
            before = None
        yield before is not None
        if before is not None and _states(folder) != before:
            _record(folder)
    finally:
        lock.release()


def find_damaged(folder: Path) -> list[Path]:
    """The blobs of one folder that differ from their record, or have none."""
    recorded = _read(folder)
    return [path for path, digest in _digests(folder).items() if recorded.get(path.name) != digest]


def _is_whole(folder: Path, *, check: bool) -> bool:
    blobs = _blobs(folder)
    with suppress(OSError):
        return bool(blobs) and not (check and find_damaged(folder))
    return False


def _prepare(folder: Path, *, check: bool) -> States:
    """Remove what is not as it was written -> what remains."""
    if check and (damaged := find_damaged(folder)):
        log.warning("a compiled graph is damaged (%s); compiling it again", damaged[0].name)
        for path in _blobs(folder):
            path.unlink(missing_ok=True)
    return _states(folder)


def _states(folder: Path) -> States:
    """Names, sizes and times of the blobs: whether OpenVINO wrote one."""
    stats = [(path.name, path.stat()) for path in _blobs(folder)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _record(folder: Path) -> None:
    """Write the checksums of a folder's blobs; without them the next start compiles again."""
    partial = folder / f".{RECORD}.{os.getpid()}"
    try:
        content = {"blobs": {path.name: digest for path, digest in _digests(folder).items()}}
        partial.write_text(seal_json(content), "utf-8")
        partial.replace(folder / RECORD)
    except OSError as error:
        log.warning("cannot store the checksums of compiled graphs: %s", error.strerror)


def _read(folder: Path) -> Mapping[str, str]:
    try:
        blobs = open_json((folder / RECORD).read_bytes()).get("blobs")
    except (OSError, ValueError):
        return {}
    return blobs if isinstance(blobs, dict) else {}


def _digests(folder: Path) -> dict[Path, str]:
    paths = _blobs(folder)
    return dict(zip(paths, checksums(paths), strict=True))


def _blobs(folder: Path) -> list[Path]:
    """Whatever OpenVINO wrote: directories too would be its own affair, but it makes none."""
    try:
        return sorted(
            path
            for path in folder.iterdir()
            if path.is_file() and path.name not in (RECORD, LOCK) and not path.name.startswith(".")
        )
    except OSError:
        return []
