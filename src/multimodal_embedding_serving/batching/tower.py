"""One modality of an open model: raw items in, vectors out, in order.

An item's path: awaited if it is still a promise, prepared on a thread, handed from that thread to
the batcher, and answered to the event loop with its chunk. At most `window` items of a request are
on that path at a time, so a video of any length passes through little memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from multimodal_embedding_serving.batching.batcher import Batcher
from multimodal_embedding_serving.batching.chunk import Chunk, Item, ItemResult, Prepare
from multimodal_embedding_serving.batching.priority import Priority, PriorityPool
from multimodal_embedding_serving.types import Graph, Modality

__all__ = ["Item", "ItemResult", "Prepare", "Tower"]


class Tower:
    """Embeds the items of one modality. Safe to use from several event loops at once.

    Items travel in chunks of `chunk`: one for images, some dozens for texts, which cost less to
    prepare than to hand from thread to thread.
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
        chunk: int,
    ) -> None:
        self.modality, self.graph, self.batcher = modality, graph, batcher
        self._prepare, self._pool = prepare, pool
        self._chunk = min(chunk, window)
        self._chunks = window // self._chunk

    async def embed(
        self,
        items: Iterable[Item] | AsyncIterator[Item],
        *,
        priority: Priority,
        deadline: float | None = None,
    ) -> list[ItemResult]:
        """One outcome per item, in order. `deadline` is a time.monotonic().

        Items whose turn comes too late fail with DeadlineExceeded. When this is cancelled, or
        `items` raises, the items on their way are dropped before they reach the graph.
        """
        chunks, slots = _chunked(items, self._chunk), asyncio.Semaphore(self._chunks)
        tasks: list[asyncio.Task[list[ItemResult]]] = []
        try:
            while True:
                await slots.acquire()
                raws_of_chunk = await anext(chunks, None)
                if raws_of_chunk is None:
                    break
                chunk = Chunk(self._prepare, self.batcher, priority=priority, deadline=deadline)
                tasks.append(asyncio.create_task(chunk.embed(raws_of_chunk, self._pool)))
                tasks[-1].add_done_callback(lambda _: slots.release())
            done = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return [outcome for outcomes in done for outcome in outcomes]

    def close(self) -> None:
        """Fail what waits, then free the graph. The pool belongs to whoever made it."""
        self.batcher.close()
        self.graph.close()


async def _chunked(
    items: Iterable[Item] | AsyncIterator[Item], size: int
) -> AsyncIterator[list[Item]]:
    """Lists of `size` items; the last one may be shorter."""
    chunk: list[Item] = []
    async for item in items if isinstance(items, AsyncIterator) else _each(items):
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def _each(items: Iterable[Item]) -> AsyncIterator[Item]:
    for item in items:
        yield item
