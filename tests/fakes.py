"""Stand-ins that behave: a graph whose vectors follow from its rows, to be held or to fail."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence

import numpy as np

from multimodal_embedding_serving.types import Features, Row, Vector, Vectors

PATIENCE = 20.0
"""Seconds after which a test gives up waiting for another thread."""
POISON = 254
"""A row that starts with it fails the whole call."""
NOT_FINITE = 253
"""A row that starts with it gives NaN."""


def vector_of(row: Row, dimension: int = 8) -> Vector:
    """The unit vector that FakeGraph gives for a row: it depends on the row's content alone."""
    seed = hashlib.sha256(np.ascontiguousarray(row).data).digest()[:8]
    vector = np.random.default_rng(int.from_bytes(seed, "little")).standard_normal(dimension)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def text_features(*ids: int, cost: int | None = None) -> Features:
    """A prepared text of these token ids."""
    row = np.asarray(ids, np.int32)
    return Features(row, cost=len(ids) if cost is None else cost, tokens=len(ids))


def image_features(shade: int, size: int = 4, patches: int = 49) -> Features:
    """A prepared picture of one shade."""
    return Features(np.full((size, size, 3), shade, np.uint8), cost=patches, tokens=patches)


class FakeGraph:
    """A Graph that remembers its batches; `hold()` makes calls wait for `release()`."""

    def __init__(self, dimension: int = 8, parallel: int = 1) -> None:
        self.dimension, self.parallel, self.precision = dimension, parallel, "f32"
        self.batches: list[list[Row]] = []
        self.closed = False
        self._open = threading.Event()
        self._open.set()
        self._entered = threading.Semaphore(0)

    def __call__(self, rows: Sequence[Row]) -> Vectors:
        self.batches.append(list(rows))
        self._entered.release()
        assert self._open.wait(PATIENCE), "nobody released the graph"
        starts = [row.flat[0] if row.size else -1 for row in rows]
        if POISON in starts:
            raise RuntimeError("the graph met a poisoned row")
        vectors = np.stack([vector_of(row, self.dimension) for row in rows])
        vectors[[start == NOT_FINITE for start in starts]] = np.nan
        return vectors

    def close(self) -> None:
        self.closed = True

    def hold(self) -> None:
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def wait_for_call(self) -> None:
        """Return once a further call has begun."""
        assert self._entered.acquire(timeout=PATIENCE), "the graph was never called"

    def forget_calls(self) -> None:
        """What `wait_for_call` returns for is a call that begins from now on."""
        while self._entered.acquire(blocking=False):
            pass

    @property
    def sizes(self) -> list[int]:
        """The number of rows of each call, in order."""
        return [len(batch) for batch in self.batches]


class FakeClock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
