"""One modality of an open model: items in, vectors out, in order.

An item's path: awaited if it is still a promise, prepared on a thread, handed from that thread to
the batcher, and answered to the event loop with its slice. At most `window` items of a request are
on that path at a time, so a video of any length passes through little memory.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from multimodal_embedding_serving.batching.batcher import Batcher
from multimodal_embedding_serving.batching.priority import Priority, PriorityPool
from multimodal_embedding_serving.batching.queue import TOO_LATE
from multimodal_embedding_serving.errors import DeadlineExceeded, EmbeddingError
from multimodal_embedding_serving.transforms.windows import join_windows
from multimodal_embedding_serving.types import Features, Graph, Modality, Vector

Item = Any
"""Whatever `Prepare` takes, or a promise of it: a function to be awaited."""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What one item gave: a vector or an error."""

    vector: Vector | None = None
    error: EmbeddingError | None = None
    tokens: int = 0
    truncated: bool = False


Prepared = Features | ItemResult | EmbeddingError
"""An item ready for the graph, one whose vector is cached already, or a bad one."""
Prepare = Callable[[Sequence[Any]], Sequence[Prepared]]
"""Runs on a thread. A bad item is an error in the list, not an exception."""


class Tower:
    """Embeds the items of one modality. Safe to use from several event loops at once.

    Items travel in slices of `slice_size`: one for images, some dozens for texts, which cost less
    to prepare than to hand from thread to thread.
    """

    def __init__(
        self,
        modality: Modality,
        graph: Graph,
        prepare: Prepare,
        *,
        pool: PriorityPool,
        batcher: Batcher,
        window: int,
        slice_size: int,
    ) -> None:
        self.modality, self.graph, self.batcher = modality, graph, batcher
        self._prepare, self._pool = prepare, pool
        self._slice_size = min(slice_size, window)
        self._max_slices = window // self._slice_size

    async def embed(
        self,
        items: Iterable[Item] | AsyncIterator[Item],
        *,
        priority: Priority,
        deadline: float | None = None,
    ) -> list[ItemResult]:
        """One result per item, in order. `deadline` is a time.monotonic().

        Items whose turn comes too late fail with DeadlineExceeded. When this is cancelled, or
        `items` raises, the items on their way are dropped before they reach the graph.
        """
        slices, slots = _cut(items, self._slice_size), asyncio.Semaphore(self._max_slices)
        tasks: list[asyncio.Task[list[ItemResult]]] = []
        try:
            while True:
                await slots.acquire()
                items_of_slice = await anext(slices, None)
                if items_of_slice is None:
                    break
                each = _Slice(self._prepare, self.batcher, priority=priority, deadline=deadline)
                tasks.append(asyncio.create_task(each.embed(items_of_slice, self._pool)))
                tasks[-1].add_done_callback(lambda _: slots.release())
            results = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return [result for of_slice in results for result in of_slice]

    def close(self) -> None:
        """Fail what waits, then free the graph. The pool belongs to whoever made it."""
        self.batcher.close()
        self.graph.close()


class _Slice:
    """Items that are prepared in one task of the pool, and answered to the event loop at once.

    A thread prepares them and the graph's workers answer them, each in its own time; the event loop
    is woken once, by the last answer.
    """

    def __init__(
        self, prepare: Prepare, batcher: Batcher, *, priority: Priority, deadline: float | None
    ) -> None:
        self._prepare, self._batcher = prepare, batcher
        self._priority, self._deadline = priority, deadline
        self._loop = asyncio.get_running_loop()
        self._complete: asyncio.Future[None] = self._loop.create_future()
        self._lock = threading.Lock()
        self._left = 1  # the preparation, then one for each vector
        self._dropped = False
        self._prepared: list[Prepared] = []
        self._vectors: list[Future[Vector]] = []
        self._failure: BaseException | None = None

    async def embed(self, items: list[Item], pool: PriorityPool) -> list[ItemResult]:
        """One result per item; `items` is emptied once they are prepared. When this is cancelled,
        so are the items that still wait."""
        ready = await asyncio.gather(*map(_awaited, items)) if any(map(callable, items)) else items
        try:
            pool.enter(self._priority, lambda: self._run(ready))
            await self._complete
        except asyncio.CancelledError:
            self._drop()
            raise
        if self._failure is not None:
            raise self._failure
        vectors = iter(self._vectors)
        return [_result(each, vectors) for each in self._prepared]

    def _run(self, items: list[Any]) -> None:
        """On a thread of the pool."""
        try:
            if not self._dropped:
                self._submit(items)
        except BaseException as failure:  # to be raised where the slice is awaited, too
            self._failure = failure
            raise
        finally:
            self._arrive()

    def _submit(self, items: list[Any]) -> None:
        """Prepare the items and hand them to the batcher."""
        if self._deadline is not None and self._deadline <= time.monotonic():
            self._prepared = [DeadlineExceeded(TOO_LATE) for _ in items]
            return
        prepared = iter(self._prepare([item for item in items if not _is_error(item)]))
        self._prepared = [item if _is_error(item) else next(prepared) for item in items]
        items.clear()  # a video's next frame may need the memory of this one
        rows = [
            window
            for each in self._prepared
            if isinstance(each, Features)
            for window in (each, *each.more)
        ]
        with self._lock:
            if self._dropped:
                return
            self._vectors = self._batcher.submit(
                rows, priority=self._priority, deadline=self._deadline
            )
            self._left += len(rows)
        for vector in self._vectors:
            vector.add_done_callback(self._arrive)

    def _arrive(self, _: object = None) -> None:
        """The preparation or a vector is there; the last one wakes the event loop."""
        with self._lock:
            self._left -= 1
            complete = not self._left
        if complete:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._complete.done():
            self._complete.set_result(None)

    def _drop(self) -> None:
        with self._lock:
            self._dropped = True
        for vector in self._vectors:
            vector.cancel()


def _is_error(item: Any) -> bool:
    return isinstance(item, EmbeddingError)


async def _awaited(item: Item) -> Any:
    """What a promise brings, or the error that comes instead."""
    if not callable(item):
        return item
    promise: Callable[[], Awaitable[Any]] = item
    try:
        return await promise()
    except EmbeddingError as error:
        return error


def _result(prepared: Prepared, vectors: Iterator[Future[Vector]]) -> ItemResult:
    if isinstance(prepared, EmbeddingError):
        return ItemResult(error=prepared)
    if isinstance(prepared, ItemResult):
        return prepared
    windows = (prepared, *prepared.more)
    futures = list(islice(vectors, len(windows)))
    try:
        parts = [future.result(timeout=0) for future in futures]
    except EmbeddingError as error:
        return ItemResult(error=error)
    vector = parts[0]
    if prepared.more:
        vector = join_windows(parts, [window.covers for window in windows])
    if prepared.on_vector:
        prepared.on_vector(vector)
    return ItemResult(vector, None, prepared.tokens, prepared.truncated)


async def _cut(items: Iterable[Item] | AsyncIterator[Item], size: int) -> AsyncIterator[list[Item]]:
    """Lists of `size` items; the last one may be shorter."""
    part: list[Item] = []
    async for item in items if isinstance(items, AsyncIterator) else _each(items):
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


async def _each(items: Iterable[Item]) -> AsyncIterator[Item]:
    for item in items:
        yield item
