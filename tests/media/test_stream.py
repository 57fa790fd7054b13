"""A blocking generator, streamed: in order, bounded, and closed whatever the consumer does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest

from multimodal_embedding_serving.media.stream import DaemonThread, stream, stream_batches
from tests.fakes import PATIENCE


class Counter:
    """Counts up, and remembers how far it came and whether it was closed."""

    def __init__(self, end: int, error: Exception | None = None) -> None:
        self.end, self.error = end, error
        self.count = 0
        self.closed = threading.Event()

    def __call__(self) -> Generator[int, None, None]:
        try:
            for number in range(self.end):
                self.count = number + 1
                yield number
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


async def test_items_come_in_order(pool: ThreadPoolExecutor) -> None:
    counter = Counter(100)
    assert [item async for item in stream(counter, pool, ahead=3)] == list(range(100))
    assert counter.closed.is_set()


async def test_an_error_comes_after_what_was_made_before_it(pool: ThreadPoolExecutor) -> None:
    items = stream(Counter(3, ValueError("torn")), pool, ahead=8)
    assert [await anext(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="torn"):
        await anext(items)


async def test_the_generator_runs_only_so_far_ahead(pool: ThreadPoolExecutor) -> None:
    counter = Counter(1000)
    async with aclosing(stream(counter, pool, ahead=2)) as items:
        for expected in range(10):
            assert await anext(items) == expected
            # two that wait and one that is held until there is room
            assert counter.count <= expected + 1 + 2 + 1


async def test_the_generator_is_closed_when_the_consumer_stops(pool: ThreadPoolExecutor) -> None:
    counter = Counter(1000)
    async with aclosing(stream(counter, pool, ahead=2)) as items:
        await anext(items)
    assert await asyncio.to_thread(counter.closed.wait, PATIENCE)
    assert counter.count < 10


async def test_the_generator_is_closed_when_the_consumer_is_cancelled(
    pool: ThreadPoolExecutor,
) -> None:
    counter = Counter(1000)
    reached = asyncio.Event()

    async def consume() -> None:
        async with aclosing(stream(counter, pool, ahead=2)) as items:
            async for _ in items:
                reached.set()
                await asyncio.Event().wait()

    task = asyncio.create_task(consume())
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(counter.closed.wait, PATIENCE)


async def test_a_batch_is_what_is_ready_and_at_most_its_size(pool: ThreadPoolExecutor) -> None:
    more = threading.Event()

    def numbers() -> Generator[int, None, None]:
        yield 0
        assert more.wait(PATIENCE)
        yield from range(1, 10)

    batches = stream_batches(numbers, pool, ahead=4, size=3)
    assert await anext(batches) == [0]  # without waiting for the others
    more.set()
    later = [batch async for batch in batches]
    assert [number for batch in later for number in batch] == list(range(1, 10))
    assert all(1 <= len(batch) <= 3 for batch in later)


async def test_a_generator_may_run_on_a_thread_that_does_not_keep_the_process_alive() -> None:
    def threads() -> Generator[threading.Thread, None, None]:
        yield threading.current_thread()

    (thread,) = [each async for each in stream(threads, DaemonThread("listing"), ahead=1)]
    assert thread.daemon
    assert thread.name == "listing"


async def test_a_generator_has_time_to_be_closed() -> None:
    counter = Counter(1000)
    batches = stream_batches(
        counter, DaemonThread("listing"), ahead=2, size=2, close_timeout=PATIENCE
    )
    await anext(batches)
    await batches.aclose()
    assert counter.closed.is_set()


async def test_a_generator_that_blocks_for_ever_is_left_alone_after_that_time() -> None:
    never = threading.Event()

    def blocked() -> Generator[int, None, None]:
        yield 0
        never.wait(PATIENCE)

    batches = stream_batches(blocked, DaemonThread("listing"), ahead=2, size=2, close_timeout=0.01)
    assert await anext(batches) == [0]
    await batches.aclose()
    assert not never.is_set()
    never.set()


async def test_a_stream_that_never_got_a_thread_is_not_started_later() -> None:
    counter, release = Counter(5), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(release.wait, PATIENCE)
        waiting = asyncio.ensure_future(anext(stream(counter, pool, ahead=1)))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        release.set()
    assert counter.count == 0
