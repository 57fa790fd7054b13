"""Checksums of what the service keeps: whether a file is still what was written.

XXH3-128 finds damage, not malice, as fast as memory is read; SHA-256 stays beside it where a bundle
changes hands. A file's checksum is the XXH3-128 of its blocks' XXH3-128 digests, so that all cores
share one large file. A small JSON file carries its checksum as a field.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xxhash

BLOCK_BYTES = 1 << 25
READ_BYTES = 1 << 20
"""Read at a time: it stays in a core's cache until it is hashed."""
FIELD = "checksum"


def checksum(path: Path) -> str:
    """The checksum of one file, as 32 hex digits. Raises OSError."""
    return checksums([path])[0]


def checksums(paths: Sequence[Path]) -> list[str]:
    """The checksum of each file; their blocks are read on all cores. Raises OSError."""
    blocks = [
        (path, start)
        for path in paths
        for start in range(0, max(path.stat().st_size, 1), BLOCK_BYTES)
    ]
    whole = {path: xxhash.xxh3_128() for path in paths}
    with ThreadPoolExecutor(max(1, min(len(blocks), len(os.sched_getaffinity(0))))) as threads:
        digests = threads.map(lambda block: _digest(*block), blocks)
        for (path, _), digest in zip(blocks, digests, strict=True):
            whole[path].update(digest)
    return [whole[path].hexdigest() for path in paths]


def _digest(path: Path, start: int) -> bytes:
    hasher, buffer = xxhash.xxh3_128(), memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        remaining = BLOCK_BYTES
        while remaining and (count := file.readinto(buffer[:remaining])):
            hasher.update(buffer[:count])
            remaining -= count
    return hasher.digest()


def seal_json(content: Mapping[str, Any]) -> str:
    """An object as the text of a JSON file, with the checksum of its contents."""
    return json.dumps({**content, FIELD: _of_json(content)}, indent=1, sort_keys=True) + "\n"


def open_json(data: bytes | str) -> dict[str, Any]:
    """The object that `seal_json` wrote, without its checksum. Raises ValueError if it differs."""
    content = json.loads(data)
    if not isinstance(content, dict):
        raise ValueError("not an object")
    if content.pop(FIELD, None) != _of_json(content):
        raise ValueError("its checksum differs")
    return content


def _of_json(content: Mapping[str, Any]) -> str:
    plain = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(plain.encode())
