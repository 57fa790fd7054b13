"""One modality of an open model: raw items in, vectors out, in order.

An item's path: awaited if it is still a promise, prepared on a thread, handed from that thread to
the batcher, and answered to the event loop with its chunk. At most `window` items of a request are
on that path at a time, so a video of any length passes through little memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from multimodal_embedding_serving.batching.batcher import Batcher
from multimodal_embedding_serving.batching.chunk import Chunk, Outcome, Prepare, Raw
from multimodal_embedding_serving.batching.priority import Lane, LanePool
from multimodal_embedding_serving.types import Graph, Modality

__all__ = ["Outcome", "Prepare", "Raw", "Tower"]


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
        pool: LanePool,
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
        raws: Iterable[Raw] | AsyncIterator[Raw],
        *,
        lane: Lane,
        deadline: float | None = None,
    ) -> list[Outcome]:
        """One outcome per item, in order. `deadline` is a time.monotonic().

        Items whose turn comes too late fail with DeadlineExceeded. When this is cancelled, or
        `raws` raises, the items on their way are dropped before they reach the graph.
        """
        chunks, slots = _chunked(raws, self._chunk), asyncio.Semaphore(self._chunks)
        tasks: list[asyncio.Task[list[Outcome]]] = []
        try:
            while True:
                await slots.acquire()
                raws_of_chunk = await anext(chunks, None)
                if raws_of_chunk is None:
                    break
                chunk = Chunk(self._prepare, self.batcher, lane=lane, deadline=deadline)
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


async def _chunked(raws: Iterable[Raw] | AsyncIterator[Raw], size: int) -> AsyncIterator[list[Raw]]:
    """Lists of `size` items; the last one may be shorter."""
    chunk: list[Raw] = []
    async for raw in raws if isinstance(raws, AsyncIterator) else _each(raws):
        chunk.append(raw)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def _each(raws: Iterable[Raw]) -> AsyncIterator[Raw]:
    for raw in raws:
        yield raw
