from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.batching.batcher import Batcher
from multimodal_embedding_serving.batching.priority import Priority, PriorityPool
from multimodal_embedding_serving.batching.tower import ItemResult, Tower
from multimodal_embedding_serving.errors import (
    DeadlineExceeded,
    EmbeddingError,
    GraphFailed,
    InvalidInput,
    NotReady,
    RemoteFailed,
)
from multimodal_embedding_serving.monitoring.admission import Client
from multimodal_embedding_serving.types import Features, Row, Vector, Vectors
from tests.fakes import PATIENCE, POISON, FakeGraph, text_features, vector_of

QUICK = Priority.INTERACTIVE


def features_of(item: int) -> Features:
    return Features(text_features(item, 7).row, cost=2, tokens=item, truncated=item % 2 == 1)


def prepare(items: Sequence[Any]) -> list[Features | EmbeddingError]:
    """Numbers become two tokens; words are bad items."""
    return [InvalidInput(item) if isinstance(item, str) else features_of(item) for item in items]


class WatchedBatcher(Batcher):
    """A Batcher that signals when items have been handed to it."""

    def __init__(self, graph: FakeGraph) -> None:
        super().__init__(graph, name="text", max_batch=8, max_cost=1024)
        self._handed = threading.Semaphore(0)

    def submit(self, *args: Any, **options: Any) -> Any:
        futures = super().submit(*args, **options)
        self._handed.release()
        return futures

    async def handed(self) -> None:
        assert await asyncio.to_thread(self._handed.acquire, timeout=PATIENCE)


class WatchedPool(PriorityPool):
    """A PriorityPool that signals when tasks have been queued."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._entered = threading.Semaphore(0)

    def enter(self, priority: Priority, task: Callable[[], None], client: Client = None) -> None:
        super().enter(priority, task, client)
        self._entered.release()

    async def entered(self) -> None:
        assert await asyncio.to_thread(self._entered.acquire, timeout=PATIENCE)


@contextmanager
def tower_over(
    graph: FakeGraph,
    *,
    prepare: Callable[[Sequence[Any]], list[Features | EmbeddingError]] = prepare,
    pool: PriorityPool | None = None,
    window: int = 8,
    slice_size: int = 1,
) -> Iterator[tuple[Tower, WatchedBatcher]]:
    batcher = WatchedBatcher(graph)
    with pool or PriorityPool(2) as pool:
        tower = Tower(
            "text", graph, prepare, pool=pool, batcher=batcher, window=window, slice_size=slice_size
        )
        try:
            yield tower, batcher
        finally:
            graph.release()
            tower.close()


def vectors(outcomes: Sequence[ItemResult]) -> list[Vector]:
    rows = [outcome.vector for outcome in outcomes if outcome.vector is not None]
    assert len(rows) == len(outcomes)
    return rows


def assert_outcomes(outcomes: Sequence[ItemResult], numbers: Sequence[int]) -> None:
    for vector, number in zip(vectors(outcomes), numbers, strict=True):
        np.testing.assert_array_equal(vector, vector_of(features_of(number).row))


async def streamed(items: Sequence[Any]) -> AsyncIterator[Any]:
    for item in items:
        yield item


@pytest.mark.parametrize("source", [list, streamed])
@pytest.mark.parametrize(("window", "slice_size"), [(1, 1), (8, 1), (3, 2), (8, 64), (128, 16)])
async def test_outcomes_come_in_the_order_of_the_items(
    source: Callable[[Sequence[int]], Any], window: int, slice_size: int
) -> None:
    numbers = list(range(1, 65))
    with tower_over(FakeGraph(parallel=2), window=window, slice_size=slice_size) as (tower, _):
        outcomes = await tower.embed(source(numbers), priority=QUICK)
    assert_outcomes(outcomes, numbers)
    assert [outcome.tokens for outcome in outcomes] == numbers
    assert [outcome.truncated for outcome in outcomes] == [number % 2 == 1 for number in numbers]


async def test_no_items_give_no_outcomes() -> None:
    with tower_over(FakeGraph()) as (tower, _):
        assert await tower.embed([], priority=QUICK) == []
        assert await tower.embed(streamed([]), priority=QUICK) == []


@settings(max_examples=40, deadline=None)
@given(
    items=st.lists(st.one_of(st.integers(1, 200), st.just("bad"), st.just(POISON)), max_size=30),
    window=st.integers(1, 12),
    slice_size=st.integers(1, 12),
)
async def test_items_fail_alone(items: list[int | str], window: int, slice_size: int) -> None:
    with tower_over(FakeGraph(), window=window, slice_size=slice_size) as (tower, _):
        outcomes = await tower.embed(items, priority=QUICK)
    assert len(outcomes) == len(items)
    for item, outcome in zip(items, outcomes, strict=True):
        if item in ("bad", POISON):
            assert isinstance(outcome.error, InvalidInput if item == "bad" else GraphFailed)
            assert outcome.vector is None
        else:
            assert_outcomes([outcome], [int(item)])


async def test_at_most_a_window_of_a_stream_is_in_flight() -> None:
    class Counting(FakeGraph):
        finished = 0

        def __call__(self, rows: Sequence[Row]) -> Vectors:
            answer = super().__call__(rows)
            self.finished += len(rows)
            return answer

    graph, window, most = Counting(), 5, 0
    full = asyncio.Event()

    async def frames() -> AsyncIterator[int]:
        nonlocal most
        for number in range(40):
            most = max(most, number + 1 - graph.finished)
            if number + 1 == window:
                full.set()
            yield number

    with tower_over(graph, window=window) as (tower, _):
        graph.hold()
        task = asyncio.create_task(tower.embed(frames(), priority=Priority.BULK))
        await full.wait()
        graph.release()
        assert_outcomes(await task, range(40))
    assert most == window


async def test_a_promise_is_awaited_within_the_window_and_beside_its_mates() -> None:
    window, opened, most = 4, 0, 0
    everyone = asyncio.Barrier(window)

    async def fetch(number: int) -> int:
        nonlocal opened, most
        opened += 1
        most = max(most, opened)
        await everyone.wait()
        opened -= 1
        return number

    promises: list[Callable[[], Awaitable[int]]] = [partial(fetch, n) for n in range(12)]
    with tower_over(FakeGraph(), window=window) as (tower, _):
        outcomes = await asyncio.wait_for(tower.embed(promises, priority=QUICK), PATIENCE)
    assert_outcomes(outcomes, range(12))
    assert most == window


@pytest.mark.parametrize("slice_size", [1, 3])
async def test_a_promise_that_fails_is_that_items_error(slice_size: int) -> None:
    async def fetch() -> int:
        raise RemoteFailed("the remote server answered 503")

    with tower_over(FakeGraph(), slice_size=slice_size) as (tower, _):
        first, second, third = await tower.embed([1, fetch, 3], priority=QUICK)
    assert isinstance(second.error, RemoteFailed)
    assert_outcomes([first, third], [1, 3])


async def test_a_request_that_is_gone_never_reaches_the_graph() -> None:
    graph = FakeGraph()
    with tower_over(graph, slice_size=4) as (tower, batcher):
        graph.hold()
        running = asyncio.create_task(tower.embed([1], priority=QUICK))
        await batcher.handed()
        await asyncio.to_thread(graph.wait_for_call)
        gone = asyncio.create_task(tower.embed([2, 3, 4], priority=QUICK))
        await batcher.handed()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        graph.release()
        assert_outcomes(await running, [1])
        assert_outcomes(await tower.embed([5], priority=QUICK), [5])
    assert [row[0] for batch in graph.batches for row in batch] == [1, 5]


async def test_a_request_that_is_gone_is_not_even_prepared() -> None:
    prepared: list[int] = []
    gate, pool = threading.Event(), WatchedPool(1)

    def slow(items: Sequence[Any]) -> list[Features | EmbeddingError]:
        prepared.extend(items)
        assert gate.wait(PATIENCE)
        return prepare(items)

    with tower_over(FakeGraph(), prepare=slow, pool=pool) as (tower, _):
        running = asyncio.create_task(tower.embed([1], priority=QUICK))
        await pool.entered()
        gone = asyncio.create_task(tower.embed([2], priority=QUICK))
        await pool.entered()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        gate.set()
        assert_outcomes(await running, [1])
        assert_outcomes(await tower.embed([3], priority=QUICK), [3])
    assert prepared == [1, 3]


async def test_a_deadline_in_the_past_costs_no_work() -> None:
    graph = FakeGraph()
    with tower_over(graph, slice_size=2) as (tower, _):
        outcomes = await tower.embed([1, 2, 3], priority=QUICK, deadline=0.0)
    assert all(isinstance(outcome.error, DeadlineExceeded) for outcome in outcomes)
    assert len(outcomes) == 3
    assert not graph.batches


async def test_a_bug_in_the_preparation_is_raised_to_the_caller() -> None:
    def broken(items: Sequence[Any]) -> list[Features | EmbeddingError]:
        raise KeyError("no such thing")

    with tower_over(FakeGraph(), prepare=broken) as (tower, _), pytest.raises(KeyError):
        await asyncio.wait_for(tower.embed([1, 2], priority=QUICK), PATIENCE)


async def test_what_the_source_raises_is_raised_and_its_items_are_dropped() -> None:
    graph = FakeGraph()

    async def frames(batcher: WatchedBatcher) -> AsyncIterator[int]:
        yield 1
        await batcher.handed()
        await asyncio.to_thread(graph.wait_for_call)
        yield 2
        await batcher.handed()
        raise InvalidInput("the video ends in the middle of a frame")

    with tower_over(graph) as (tower, batcher):
        graph.hold()
        with pytest.raises(InvalidInput, match="middle of a frame"):
            await tower.embed(frames(batcher), priority=Priority.BULK)
    assert [row[0] for batch in graph.batches for row in batch] == [1]


async def test_a_closed_tower_is_not_ready() -> None:
    graph = FakeGraph()
    with tower_over(graph) as (tower, _):
        tower.close()
        with pytest.raises(NotReady):
            await tower.embed([1], priority=QUICK)
    assert graph.closed


async def test_a_pool_that_was_shut_down_is_not_ready() -> None:
    pool = PriorityPool(1)
    with tower_over(FakeGraph(), pool=pool) as (tower, _):
        pool.shutdown()
        with pytest.raises(NotReady):
            await tower.embed([1], priority=QUICK)


def test_two_event_loops_may_share_a_tower() -> None:
    with tower_over(FakeGraph(), window=2) as (tower, _):
        for _ in range(2):
            assert_outcomes(asyncio.run(tower.embed(range(1, 20), priority=QUICK)), range(1, 20))


async def test_a_text_in_windows_is_one_item_and_its_failure_is_its_own() -> None:
    """Raw n > 0 is in n windows; one of the second window's rows spoils its text alone."""

    def in_windows(items: Sequence[Any]) -> list[Features | EmbeddingError]:
        return [windows_of(item) for item in items]

    def windows_of(item: int) -> Features:
        rows = [text_features(item, place) for place in range(item)]
        if item == 3:
            rows[1] = text_features(POISON)
        first, *more = (replace(row, covers=place + 1) for place, row in enumerate(rows))
        return replace(first, tokens=item, more=tuple(more))

    with tower_over(FakeGraph(), prepare=in_windows, slice_size=8) as (tower, _):
        one, bad, two = await tower.embed([1, 3, 2], priority=QUICK)
    assert isinstance(bad.error, GraphFailed)
    assert_same = np.testing.assert_allclose
    assert_same(vectors([one])[0], vector_of(text_features(1, 0).row))
    first, second = (vector_of(text_features(2, place).row) for place in range(2))
    mean = first + 2 * second
    assert_same(vectors([two])[0], mean / np.linalg.norm(mean), atol=1e-6)
    assert (one.tokens, two.tokens) == (1, 2)
