"""Some items of a request, from promise to outcome."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from multimodal_embedding_serving.batching.batcher import TOO_LATE, Batcher
from multimodal_embedding_serving.batching.priority import Priority, PriorityPool
from multimodal_embedding_serving.errors import DeadlineExceeded, EmbeddingError
from multimodal_embedding_serving.transforms.windows import join_windows
from multimodal_embedding_serving.types import Features, Vector

Item = Any
"""Whatever `Prepare` takes, or a promise of it: a function to be awaited."""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one item: a vector or an error."""

    vector: Vector | None = None
    error: EmbeddingError | None = None
    tokens: int = 0
    truncated: bool = False


Prepared = Features | ItemResult | EmbeddingError
"""A prepared item, one whose vector is known already, or a bad one."""
Prepare = Callable[[Sequence[Any]], Sequence[Prepared]]
"""Runs on a thread. A bad item is an error in the list, not an exception."""


class Chunk:
    """Items that are prepared in one task of the pool, and answered to the event loop at once."""

    def __init__(
        self, prepare: Prepare, batcher: Batcher, *, priority: Priority, deadline: float | None
    ) -> None:
        self._prepare, self._batcher = prepare, batcher
        self._lane, self._deadline = priority, deadline
        self._loop = asyncio.get_running_loop()
        self._answered: asyncio.Future[None] = self._loop.create_future()
        self._lock = threading.Lock()
        self._left = 1  # the preparation, then one for each vector
        self._dropped = False
        self._features: list[Prepared] = []
        self._vectors: list[Future[Vector]] = []
        self._failure: BaseException | None = None

    async def embed(self, items: list[Item], pool: PriorityPool) -> list[ItemResult]:
        """One outcome per item; `items` is emptied once they are prepared. When this is cancelled,
        so are the items that still wait."""
        ready = await asyncio.gather(*map(_kept, items)) if any(map(callable, items)) else items
        try:
            pool.enter(self._lane, lambda: self._run(ready))
            await self._answered
        except asyncio.CancelledError:
            self._drop()
            raise
        if self._failure is not None:
            raise self._failure
        vectors = iter(self._vectors)
        return [_outcome(each, vectors) for each in self._features]

    def _run(self, ready: list[Any]) -> None:
        """On a thread of the pool."""
        try:
            if not self._dropped:
                self._queue(ready)
        except BaseException as failure:  # to be raised where the chunk is awaited, too
            self._failure = failure
            raise
        finally:
            self._arrive()

    def _queue(self, ready: list[Any]) -> None:
        """Prepare the items and hand them to the batcher."""
        if self._deadline is not None and self._deadline <= time.monotonic():
            self._features = [DeadlineExceeded(TOO_LATE) for _ in ready]
            return
        prepared = iter(self._prepare([item for item in ready if not _is_error(item)]))
        self._features = [item if _is_error(item) else next(prepared) for item in ready]
        ready.clear()  # a video's next frame may need the memory of this one
        rows = [
            window
            for each in self._features
            if isinstance(each, Features)
            for window in (each, *each.more)
        ]
        with self._lock:
            if self._dropped:
                return
            self._vectors = self._batcher.submit(rows, priority=self._lane, deadline=self._deadline)
            self._left += len(rows)
        for vector in self._vectors:
            vector.add_done_callback(self._arrive)

    def _arrive(self, _: object = None) -> None:
        """The preparation or a vector is there; the last one tells the event loop."""
        with self._lock:
            self._left -= 1
            complete = not self._left
        if complete:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        if not self._answered.done():
            self._answered.set_result(None)

    def _drop(self) -> None:
        with self._lock:
            self._dropped = True
        for vector in self._vectors:
            vector.cancel()


def _is_error(item: Any) -> bool:
    return isinstance(item, EmbeddingError)


async def _kept(item: Item) -> Any:
    """What a promise brings, or the error that comes instead."""
    if not callable(item):
        return item
    promise: Callable[[], Awaitable[Any]] = item
    try:
        return await promise()
    except EmbeddingError as error:
        return error


def _outcome(features: Prepared, vectors: Iterator[Future[Vector]]) -> ItemResult:
    if isinstance(features, EmbeddingError):
        return ItemResult(error=features)
    if isinstance(features, ItemResult):
        return features
    windows = (features, *features.more)
    futures = list(islice(vectors, len(windows)))
    try:
        found = [future.result(timeout=0) for future in futures]
    except EmbeddingError as error:
        return ItemResult(error=error)
    vector = found[0]
    if features.more:
        vector = join_windows(found, [window.covers for window in windows])
    if features.on_vector:
        features.on_vector(vector)
    return ItemResult(vector, None, features.tokens, features.truncated)
