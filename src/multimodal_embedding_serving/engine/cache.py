"""The embedding cache: the vectors of recent items, in memory, up to a number of bytes.

An item's key is a hash of what the caller sent (an encoded image, or a text with its role and
instruction), the model's fingerprint and the tower. The lookup happens on the thread that would
preprocess the item, before anything is decoded or tokenized. `dimensions` and encodings are applied
later, so one entry serves them all. Items without bytes of their own (frames of a video, PIL images
and arrays of this process) are not cached.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256

from multimodal_embedding_serving.batching.tower import ItemResult, Prepared
from multimodal_embedding_serving.types import Features, Vector

ENTRY_BYTES = 512
"""Memory of an entry besides its vector: key, slot, object headers (350, and malloc's share)."""


class VectorCache:
    """Evicts the least recently used entries. Thread-safe; a lookup takes about a microsecond."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes, for all entries together."""
        self.limit, self.size = limit, 0
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, ItemResult] = OrderedDict()

    @property
    def count(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> ItemResult | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def store(self, key: bytes, result: ItemResult) -> None:
        """Store a result with a vector, unless it is larger than the whole cache."""
        if _size(result) > self.limit:
            return
        with self._lock:
            previous = self._entries.pop(key, None)
            self.size += _size(result) - (_size(previous) if previous else 0)
            self._entries[key] = result
            while self.size > self.limit:
                self.size -= _size(self._entries.popitem(last=False)[1])


class TowerCache:
    """One tower's view of the cache."""

    def __init__(self, cache: VectorCache, scope: str, on_lookup: Callable[[bool], None]) -> None:
        """`scope` is the part of the key that all entries share: fingerprint and tower.

        `on_lookup(hit)` is called for every lookup.
        """
        self._cache, self._on_lookup = cache, on_lookup
        self._prefix = sha256(scope.encode())

    def key(self, *content: str | bytes | None) -> bytes:
        """Hash the parts of an item; where one part ends matters, and None differs from empty."""
        key = self._prefix.copy()
        for part in content:
            data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
            key.update(b"-" if data is None else b"%d:" % len(data))
            key.update(data or b"")
        return key.digest()

    def get(self, key: bytes) -> ItemResult | None:
        result = self._cache.get(key)
        self._on_lookup(result is not None)
        return result

    def store_later(self, features: Prepared, key: bytes) -> Prepared:
        """The same features, with a callback that stores their vector once it is computed."""
        if not isinstance(features, Features):
            return features

        def store(vector: Vector) -> None:
            # A copy: the vector is a row of its whole batch's array.
            result = ItemResult(vector.copy(), None, features.tokens, features.truncated)
            self._cache.store(key, result)

        return replace(features, on_vector=store)


def _size(result: ItemResult) -> int:
    return ENTRY_BYTES + (0 if result.vector is None else result.vector.nbytes)
