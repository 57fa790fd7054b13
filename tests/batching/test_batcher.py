from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.batching.batcher import Batcher
from multimodal_embedding_serving.batching.priority import Priority
from multimodal_embedding_serving.batching.queue import MAX_BULK_SECONDS, MAX_INTERACTIVE_TURNS
from multimodal_embedding_serving.errors import DeadlineExceeded, GraphFailed
from multimodal_embedding_serving.types import Features, Vector
from tests.batching.scripted import assert_answers, batching, costs, now, occupy, text
from tests.fakes import (
    NOT_FINITE,
    PATIENCE,
    POISON,
    FakeClock,
    FakeGraph,
    image_features,
    text_features,
    vector_of,
)


def test_an_item_gets_its_own_vector_in_the_order_of_submission() -> None:
    items = [text(number, 3) for number in range(50)]
    with batching(FakeGraph()) as batcher:
        assert_answers(now(batcher, *items), items)


def test_an_idle_worker_takes_an_item_at_once() -> None:
    graph = FakeGraph()
    with batching(graph) as batcher:
        futures = occupy(batcher, graph)
        assert graph.sizes == [1]
    assert_answers(futures, [text_features(9000)])


def test_what_piles_up_while_the_graph_is_busy_becomes_one_batch() -> None:
    graph = FakeGraph()
    with batching(graph) as batcher:
        occupy(batcher, graph)
        futures = [now(batcher, text(number, 4))[0] for number in range(5)]
        graph.release()
        assert_answers(futures, [text(number, 4) for number in range(5)])
    assert graph.sizes == [1, 5]


def test_two_idle_workers_share_what_waits() -> None:
    graph = FakeGraph(parallel=2)
    with batching(graph) as batcher:
        graph.hold()
        futures = now(batcher, *[text(number, 4) for number in range(6)])
        graph.wait_for_call()
        graph.wait_for_call()
        assert sorted(graph.sizes) == [3, 3]
        graph.release()
        assert_answers(futures, [text(number, 4) for number in range(6)])


def test_a_batch_holds_items_of_like_length() -> None:
    graph = FakeGraph()
    with batching(graph, max_batch=4) as batcher:
        occupy(batcher, graph)
        lengths = [70, 5, 71, 6, 70, 5, 72, 6]
        items = [text(number, cost) for number, cost in enumerate(lengths)]
        futures = now(batcher, *items)
        graph.release()
        assert_answers(futures, items)
    assert [sorted(costs(batch)) for batch in graph.batches[1:]] == [[70, 70, 71, 72], [5, 5, 6, 6]]


def test_a_long_item_is_not_padded_onto_short_ones_unless_it_is_worth_a_call() -> None:
    graph = FakeGraph()
    with batching(graph) as batcher:
        occupy(batcher, graph)
        futures = now(batcher, text(0, 5), text(1, 400), text(2, 6))
        graph.release()
        assert_answers(futures, [text(0, 5), text(1, 400), text(2, 6)])
    assert [costs(batch) for batch in graph.batches[1:]] == [[5, 6], [400]]


def test_the_oldest_item_is_never_passed_over() -> None:
    graph = FakeGraph()
    with batching(graph, max_batch=2) as batcher:
        occupy(batcher, graph)
        odd = text(0, 100)
        futures = now(batcher, odd, *[text(number, 5) for number in range(1, 9)])
        graph.release()
        futures[-1].result(PATIENCE)
    assert costs(graph.batches[1]) == [100]


def test_an_item_above_the_cost_limit_goes_alone() -> None:
    graph = FakeGraph()
    with batching(graph, max_cost=10) as batcher:
        occupy(batcher, graph)
        futures = now(batcher, text(0, 30), text(1, 30), text(2, 5), text(3, 5))
        graph.release()
        assert_answers(futures, [text(0, 30), text(1, 30), text(2, 5), text(3, 5)])
    assert [costs(batch) for batch in graph.batches[1:]] == [[30], [30], [5, 5]]


def test_interactive_goes_before_bulk() -> None:
    graph = FakeGraph()
    with batching(graph) as batcher:
        occupy(batcher, graph)
        bulk = now(batcher, text(0, 4), priority=Priority.BULK)
        quick = now(batcher, text(1, 4))
        graph.release()
        assert_answers(bulk + quick, [text(0, 4), text(1, 4)])
    assert [batch[0][0] for batch in graph.batches[1:]] == [1001, 1000]


def test_bulk_makes_progress_under_endless_interactive_work() -> None:
    graph = FakeGraph()
    with batching(graph, max_batch=1) as batcher:
        occupy(batcher, graph)
        bulk = [text(number, 4) for number in range(3)]
        quick = [text(number, 4) for number in range(10, 40)]
        futures = now(batcher, *bulk, priority=Priority.BULK) + now(batcher, *quick)
        graph.release()
        assert_answers(futures, bulk + quick)
    order = [batch[0][0] < 1010 for batch in graph.batches[1:]]
    turn = [False] * MAX_INTERACTIVE_TURNS + [True]
    assert order == turn * 3 + [False] * (33 - 3 * len(turn))


def test_bulk_batches_are_short_only_while_interactive_items_keep_coming() -> None:
    graph, clock = FakeGraph(), FakeClock()
    with batching(graph, max_batch=16, clock=clock) as batcher:
        occupy(batcher, graph)
        first = [text(number, 4) for number in range(16)] + [text(99, 100)]
        futures = now(batcher, *first, priority=Priority.BULK)
        clock.now += MAX_BULK_SECONDS / 16  # for one token: 16 fit into a short batch
        graph.release()
        assert_answers(futures, first)
        assert graph.sizes[1:] == [4, 4, 4, 4, 1]
        occupy(batcher, graph, start=9500)
        clock.now += 60
        second = [text(number, 4) for number in range(100, 116)]
        futures = now(batcher, *second, priority=Priority.BULK)
        graph.release()
        assert_answers(futures, second)
    assert graph.sizes[-1] == 16


def test_an_item_whose_deadline_has_passed_never_reaches_the_graph() -> None:
    graph, clock = FakeGraph(), FakeClock()
    with batching(graph, clock=clock) as batcher:
        occupy(batcher, graph)
        (late,) = batcher.submit(
            [text(0, 4)], priority=Priority.INTERACTIVE, deadline=clock.now + 1
        )
        (early,) = batcher.submit(
            [text(1, 4)], priority=Priority.INTERACTIVE, deadline=clock.now + 9
        )
        clock.now += 2
        graph.release()
        assert_answers([early], [text(1, 4)])
        with pytest.raises(DeadlineExceeded):
            late.result(PATIENCE)
    assert [row[0] for batch in graph.batches[1:] for row in batch] == [1001]


def test_a_cancelled_item_never_reaches_the_graph() -> None:
    graph = FakeGraph()
    with batching(graph) as batcher:
        occupy(batcher, graph)
        gone, stays = now(batcher, text(0, 90), text(1, 4))
        assert gone.cancel()
        graph.release()
        assert_answers([stays], [text(1, 4)])
        with pytest.raises(CancelledError):
            gone.result(PATIENCE)
    assert [row[0] for batch in graph.batches[1:] for row in batch] == [1001]


def test_equal_rows_in_flight_are_computed_once() -> None:
    graph = FakeGraph()
    with batching(graph) as batcher:
        running = occupy(batcher, graph)
        running += now(batcher, text_features(9000))
        waiting = now(batcher, text(0, 4), text(0, 4)) + now(batcher, text(0, 4))
        assert batcher.waiting == 1
        graph.release()
        assert_answers(running, [text_features(9000)] * 2)
        assert_answers(waiting, [text(0, 4)] * 3)
    assert graph.sizes == [1, 1]


def test_a_duplicate_survives_the_first_one_being_cancelled() -> None:
    graph = FakeGraph()
    with batching(graph) as batcher:
        occupy(batcher, graph)
        first, second = now(batcher, text(0, 4), text(0, 4))
        first.cancel()
        graph.release()
        assert_answers([second], [text(0, 4)])


def test_who_joins_a_running_item_can_no_longer_take_it_back() -> None:
    graph = FakeGraph()
    with batching(graph) as batcher:
        first = occupy(batcher, graph)
        joined = now(batcher, text_features(9000))
        assert not joined[0].cancel()
        graph.release()
        assert_answers(first + joined, [text_features(9000)] * 2)
        assert_answers(now(batcher, text(0, 4)), [text(0, 4)])


def test_a_row_is_computed_again_once_its_answer_is_out() -> None:
    graph = FakeGraph()
    with batching(graph) as batcher:
        for _ in range(2):
            assert_answers(now(batcher, text(0, 4)), [text(0, 4)])
    assert graph.sizes == [1, 1]


def test_every_batch_is_counted() -> None:
    graph = FakeGraph()
    sizes: list[int] = []
    with batching(graph, on_batch=sizes.append) as batcher:
        occupy(batcher, graph)
        futures = now(batcher, text(0, 4), text(1, 4))
        graph.release()
        assert_answers(futures, [text(0, 4), text(1, 4)])
    assert sizes == graph.sizes == [1, 2]


def test_images_are_distinguished_by_their_pixels() -> None:
    items = [image_features(shade) for shade in range(10)]
    with batching(FakeGraph()) as batcher:
        assert_answers(now(batcher, *items), items)


submissions = st.lists(
    st.tuples(st.sampled_from(Priority), st.lists(st.integers(1, 40), min_size=1, max_size=20)),
    min_size=1,
    max_size=8,
)
KINDS = st.sampled_from(["good"] * 6 + ["poison", "nan", "cancelled", "late"])


@settings(max_examples=150, deadline=None)
@given(
    submissions=submissions,
    parallel=st.integers(1, 3),
    max_batch=st.integers(1, 9),
    max_cost=st.integers(1, 300),
    kinds=st.lists(KINDS, min_size=1, max_size=12),
    replica=st.booleans(),
)
def test_whatever_is_submitted_every_item_gets_its_own_answer_within_the_limits(
    submissions: list[tuple[Priority, list[int]]],
    parallel: int,
    max_batch: int,
    max_cost: int,
    kinds: list[str],
    replica: bool,
) -> None:
    graph, copy, clock = FakeGraph(parallel=parallel), FakeGraph(), FakeClock()
    limits: dict[str, Any] = {"max_batch": max_batch, "max_cost": max_cost}
    moved = threading.Event()  # the clock: before that nothing is late

    def open_replica() -> FakeGraph:
        assert moved.wait(PATIENCE)
        return copy

    if replica:
        limits["open_replica"] = open_replica
    entries: list[tuple[str, Features, Future[Vector]]] = []
    with batching(graph, clock=clock, **limits) as batcher:
        occupy(batcher, graph, priority=Priority.BULK if replica else Priority.INTERACTIVE)
        for priority, lengths in submissions:
            for length in lengths:
                kind = kinds[len(entries) % len(kinds)]
                first = {"poison": POISON, "nan": NOT_FINITE}.get(kind, 1)
                item = text_features(first, *[1000 + len(entries)] * length)
                deadline = clock.now + (1 if kind == "late" else 9)
                (future,) = batcher.submit([item], priority=priority, deadline=deadline)
                entries.append((kind, item, future))
                if kind == "cancelled":
                    future.cancel()
        clock.now += 5
        moved.set()
        graph.release()
        errors = {"late": DeadlineExceeded, "poison": GraphFailed, "nan": GraphFailed}
        for kind, item, future in entries:
            if kind == "good":
                np.testing.assert_array_equal(future.result(PATIENCE), vector_of(item.row))
            elif kind == "cancelled":
                assert future.cancelled()
            else:
                assert isinstance(future.exception(PATIENCE), errors[kind])
    batches = graph.batches + copy.batches
    for batch in batches:
        assert len(batch) <= max_batch
        assert len(batch) == 1 or len(batch) * max(costs(batch)) <= max_cost
    computed = {row.tobytes() for batch in batches for row in batch}
    for kind, item, _ in entries:
        assert (item.row.tobytes() in computed) == (kind not in ("late", "cancelled"))


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=40), limit=st.integers(1, 6))
def test_the_oldest_of_a_priority_is_in_its_next_batch(lengths: list[int], limit: int) -> None:
    graph = FakeGraph()
    with batching(graph, max_batch=limit, max_cost=200) as batcher:
        occupy(batcher, graph)
        items = [text(number, length) for number, length in enumerate(lengths)]
        futures = now(batcher, *items)
        graph.release()
        assert_answers(futures, items)
    left = list(range(len(items)))
    for batch in graph.batches[1:]:
        numbers = [int(row[0]) - 1000 for row in batch]
        assert left[0] in numbers
        left = [number for number in left if number not in numbers]
    assert not left


def test_many_threads_may_submit_at_once() -> None:
    graph = FakeGraph(parallel=2)
    failures: list[BaseException] = []

    def client(first: int, batcher: Batcher) -> None:
        try:
            for number in range(first, first + 40):
                items = [text(number, 1 + number % 7), text(number + 5000, 3)]
                assert_answers(now(batcher, *items, priority=Priority(number % 2)), items)
        except BaseException as error:
            failures.append(error)
            raise

    with batching(graph) as batcher:
        clients = [
            threading.Thread(target=partial(client, 100 * number, batcher)) for number in range(8)
        ]
        for each in clients:
            each.start()
        for each in clients:
            each.join(PATIENCE)
    assert not failures
    assert sum(graph.sizes) == 8 * 40 * 2
