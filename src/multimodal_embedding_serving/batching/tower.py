"""One modality of a loaded model: items in, vectors out, in order.

An item is awaited if it is a coroutine function, preprocessed on a thread, handed from that thread
to the batcher, and returned to the event loop with its slice. At most `window` items of a request
are in flight at a time, so that a video of any length needs little memory.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from multimodal_embedding_serving.batching.batcher import Batcher
from multimodal_embedding_serving.batching.priority import Priority, PriorityPool
from multimodal_embedding_serving.batching.queue import TOO_LATE
from multimodal_embedding_serving.errors import DeadlineExceeded, EmbeddingError
from multimodal_embedding_serving.monitoring.admission import Admission
from multimodal_embedding_serving.monitoring.request import current_client
from multimodal_embedding_serving.transforms.windows import join_windows
from multimodal_embedding_serving.types import Features, Graph, Modality, Vector

Item = Any
"""What `Prepare` takes, or a coroutine function that returns it."""


@dataclass(frozen=True, slots=True)
class ItemResult:
    """The result of one item: a vector or an error."""

    vector: Vector | None = None
    error: EmbeddingError | None = None
    tokens: int = 0
    truncated: bool = False


Prepared = Features | ItemResult | EmbeddingError
"""An item ready for the graph, the result of a cached one, or the error of an invalid one."""
Prepare = Callable[[Sequence[Any]], Sequence[Prepared]]
"""Runs on a thread. An invalid item is an error in the list, not an exception."""


class Tower:
    """Embeds the items of one modality. May be used from several event loops at once.

    Items are processed in slices of `slice_size`: one for images, a few dozen for texts, which cost
    less to preprocess than to hand from thread to thread.
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
        self.window = self._slice_size * self._max_slices

    async def embed(
        self,
        items: Iterable[Item] | AsyncIterator[Item],
        *,
        priority: Priority,
        deadline: float | None = None,
        admission: Admission | None = None,
    ) -> list[ItemResult]:
        """One result per item, in order. `deadline` is a time.monotonic().

        Items that miss the deadline fail with DeadlineExceeded. If this is cancelled, or `items`
        raises, the items in flight are dropped before they reach the graph. Items occupy places
        of the `admission` from when their bytes are here; raises QueueFull if it gets no more.
        """
        slices, slots = _split(items, self._slice_size), asyncio.Semaphore(self._max_slices)
        tasks: list[asyncio.Task[list[ItemResult]]] = []
        try:
            while True:
                await slots.acquire()
                items_of_slice = await anext(slices, None)
                if items_of_slice is None:
                    break
                if admission is not None:
                    admission.expect(len(items_of_slice))
                each = _Slice(self._prepare, self.batcher, priority=priority, deadline=deadline)
                tasks.append(asyncio.create_task(each.embed(items_of_slice, self._pool, admission)))
                tasks[-1].add_done_callback(lambda _: slots.release())
            if admission is not None:
                admission.end()
            results = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return [result for of_slice in results for result in of_slice]

    def prepare(self, item: Any) -> Features:
        """Preprocess one item on this thread, without embedding it. Raises its error."""
        (prepared,) = self._prepare([item])
        if isinstance(prepared, EmbeddingError):
            raise prepared
        if isinstance(prepared, ItemResult):
            raise TypeError("the item's vector is cached: there is nothing to preprocess")
        return prepared

    def close(self) -> None:
        """Fail waiting items, then free the graph. The pool is left to its owner."""
        self.batcher.close()
        self.graph.close()


class _Slice:
    """Items that are preprocessed in one task of the pool and returned together.

    A thread preprocesses them and the graph's workers answer them one after the other; the event
    loop is woken once, by the last answer.
    """

    def __init__(
        self, prepare: Prepare, batcher: Batcher, *, priority: Priority, deadline: float | None
    ) -> None:
        self._prepare, self._batcher = prepare, batcher
        self._priority, self._deadline = priority, deadline
        self._loop = asyncio.get_running_loop()
        self._complete: asyncio.Future[None] = self._loop.create_future()
        self._lock = threading.Lock()
        self._pending = 1  # the preprocessing, then one for each vector
        self._dropped = False
        self._prepared: list[Prepared] = []
        self._vectors: list[Future[Vector]] = []
        self._failure: BaseException | None = None

    async def embed(
        self, items: list[Item], pool: PriorityPool, admission: Admission | None
    ) -> list[ItemResult]:
        """One result per item; `items` is emptied once they are preprocessed.

        If this is cancelled, so are the items that still wait. Raises QueueFull.
        """
        fetches = any(map(callable, items))
        resolved = await asyncio.gather(*map(_resolve, items)) if fetches else items
        with nullcontext() if admission is None else admission.occupy(len(items)):
            return await self._embed(resolved, pool)

    async def _embed(self, resolved: list[Any], pool: PriorityPool) -> list[ItemResult]:
        try:
            pool.enter(self._priority, lambda: self._run(resolved), current_client())
            await self._complete
        except asyncio.CancelledError:
            self._drop()
            raise
        if self._failure is not None:
            raise self._failure
        vectors = iter(self._vectors)
        return [_result(each, vectors) for each in self._prepared]

    def _run(self, items: list[Any]) -> None:
        """Runs on a thread of the pool."""
        try:
            if not self._dropped:
                self._submit(items)
        except BaseException as failure:  # raised again where the slice is awaited
            self._failure = failure
            raise
        finally:
            self._arrive()

    def _submit(self, items: list[Any]) -> None:
        """Preprocess the items and hand them to the batcher."""
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
            self._pending += len(rows)
        for vector in self._vectors:
            vector.add_done_callback(self._arrive)

    def _arrive(self, _: object = None) -> None:
        """The preprocessing or a vector is done; the last one wakes the event loop."""
        with self._lock:
            self._pending -= 1
            complete = not self._pending
        if complete:
            with suppress(RuntimeError):  # the loop is closed: nothing waits any more
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


async def _resolve(item: Item) -> Any:
    """The result of a coroutine function, or the error that it raised."""
    if not callable(item):
        return item
    fetch: Callable[[], Awaitable[Any]] = item
    try:
        return await fetch()
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


async def _split(
    items: Iterable[Item] | AsyncIterator[Item], size: int
) -> AsyncIterator[list[Item]]:
    """Yield lists of `size` items; the last one may be shorter."""
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
