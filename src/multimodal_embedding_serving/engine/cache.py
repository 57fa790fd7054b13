"""Vectors that were computed before, kept in memory up to a number of bytes.

An item is known by the hash of what the caller sent (an encoded picture, or a text with its role
and instruction), of the model's fingerprint and of the tower. It is looked up on the thread that
would prepare it, before anything is decoded or tokenized. `dimensions` and encodings come after:
one entry serves them all. What has no bytes of its own (frames of a video, pictures and arrays of
this process) is not kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

from multimodal_embedding_serving.batching.tower import ItemResult, Prepared
from multimodal_embedding_serving.types import Features, Vector

ENTRY = 512
"""Bytes that an entry takes beside its vector: key, place, headers (350 and what malloc adds)."""


class VectorCache:
    """The least recently used go first. Thread-safe; a lookup takes about a microsecond."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes, all entries together."""
        self.limit, self.size = limit, 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, ItemResult] = OrderedDict()

    @property
    def count(self) -> int:
        return len(self._kept)

    def find(self, key: bytes) -> ItemResult | None:
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def keep(self, key: bytes, outcome: ItemResult) -> None:
        """Remember an outcome that holds a vector; what does not fit at all is not kept."""
        if _bytes(outcome) > self.limit:
            return
        with self._lock:
            before = self._kept.pop(key, None)
            self.size += _bytes(outcome) - (_bytes(before) if before else 0)
            self._kept[key] = outcome
            while self.size > self.limit:
                self.size -= _bytes(self._kept.popitem(last=False)[1])


class Recall:
    """A tower's part of the cache. `heard(hit)` counts its lookups."""

    def __init__(self, cache: VectorCache, mark: str, heard: Callable[[bool], None]) -> None:
        """`mark` says whose vectors these are: fingerprint and tower."""
        self._cache, self._heard = cache, heard
        self._start = sha256(mark.encode())

    def key(self, *content: str | bytes | None) -> bytes:
        """What a content is known by; its parts are told apart, and None from an empty one."""
        key = self._start.copy()
        for part in content:
            data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            key.update(b"-" if data is None else b"%d:" % len(data))
            key.update(data or b"")
        return key.digest()

    def find(self, key: bytes) -> ItemResult | None:
        found = self._cache.find(key)
        self._heard(found is not None)
        return found

    def keeping(self, features: Prepared, key: bytes) -> Prepared:
        """The same features, to be remembered once their vector is there."""
        if not isinstance(features, Features):
            return features

        def keep(vector: Vector) -> None:
            # A copy: the vector is a row of its whole batch's array.
            kept = ItemResult(vector.copy(), None, features.tokens, features.truncated)
            self._cache.keep(key, kept)

        return replace(features, on_vector=keep)


def _bytes(outcome: ItemResult) -> int:
    return ENTRY + (0 if outcome.vector is None else outcome.vector.nbytes)
