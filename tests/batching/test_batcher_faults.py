"""A graph that fails, answers nonsense, or is closed: who gets which error, and who none."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future

import pytest

from multimodal_embedding_serving.batching.batcher import MAX_FAILURES
from multimodal_embedding_serving.errors import GraphFailed, NotReady
from multimodal_embedding_serving.types import Row, Vector, Vectors
from tests.batching.scripted import assert_answers, batching, now, occupy, text
from tests.fakes import NOT_FINITE, PATIENCE, POISON, FakeGraph, text_features


def test_a_poisoned_item_does_not_spoil_its_neighbours() -> None:
    graph = FakeGraph()
    with batching(graph) as batcher:
        occupy(batcher, graph)
        before, bad, after = now(batcher, text(0, 4), text_features(POISON, 2, 3, 4), text(1, 4))
        graph.release()
        assert_answers([before, after], [text(0, 4), text(1, 4)])
        with pytest.raises(GraphFailed, match="failed on this item"):
            bad.result(PATIENCE)
    assert graph.sizes == [1, 3, 1, 1, 1]


def test_equal_items_that_fail_get_an_error_each() -> None:
    graph = FakeGraph()
    with batching(graph) as batcher:
        occupy(batcher, graph)
        bad = [text_features(POISON), text_features(POISON)]
        first, second = (
            future.exception(PATIENCE) for future in release(graph, now(batcher, *bad))
        )
    assert isinstance(first, GraphFailed)
    assert first is not second


def release(graph: FakeGraph, futures: list[Future[Vector]]) -> list[Future[Vector]]:
    graph.release()
    return futures


def test_a_nan_fails_alone_and_makes_the_graph_suspicious() -> None:
    graph, suspected = FakeGraph(), threading.Event()
    with batching(graph, on_suspect=suspected.set) as batcher:
        occupy(batcher, graph)
        good, bad = now(batcher, text(0, 4), text_features(NOT_FINITE, 2, 3, 4))
        graph.release()
        assert_answers([good], [text(0, 4)])
        with pytest.raises(GraphFailed, match="NaN or infinity for this item"):
            bad.result(PATIENCE)
        assert suspected.wait(PATIENCE)
        assert batcher.healthy


def test_three_failing_batches_in_a_row_make_the_graph_suspicious() -> None:
    graph, suspected = FakeGraph(), threading.Event()
    with batching(graph, on_suspect=suspected.set) as batcher:
        for number in [1, 2, 0, 3, 4]:
            row = [POISON, number] if number else [5]
            now(batcher, text_features(*row))[0].exception(PATIENCE)
        assert not suspected.is_set()
        for number in range(MAX_FAILURES - 2):
            now(batcher, text_features(POISON, 100 + number))[0].exception(PATIENCE)
        assert suspected.wait(PATIENCE)
        assert_answers(now(batcher, text(0, 4)), [text(0, 4)])
        assert batcher.healthy


def test_only_a_failing_self_test_makes_the_batcher_unhealthy() -> None:
    tested = threading.Event()

    def fail() -> None:
        tested.set()
        raise RuntimeError("two images got one vector")

    graph = FakeGraph()
    with batching(graph, on_suspect=fail) as batcher:
        now(batcher, text_features(NOT_FINITE))[0].exception(PATIENCE)
        assert tested.wait(PATIENCE)
        assert_answers(now(batcher, text(0, 4)), [text(0, 4)])
        assert not batcher.healthy


def test_a_graph_that_answers_the_wrong_shape_fails_its_items() -> None:
    class Short(FakeGraph):
        def __call__(self, rows: Sequence[Row]) -> Vectors:
            return super().__call__(rows)[:, :-1]

    with batching(Short()) as batcher, pytest.raises(GraphFailed):
        now(batcher, text(0, 4))[0].result(PATIENCE)


def test_closing_fails_what_waits_and_ends_what_runs() -> None:
    graph = FakeGraph()
    with batching(graph) as batcher:
        running = occupy(batcher, graph)
        waiting = now(batcher, text(0, 4), text(1, 4))
        waiting[0].add_done_callback(lambda _: graph.release())
        batcher.close()
        assert_answers(running, [text_features(9000)])
        for future in waiting:
            with pytest.raises(NotReady):
                future.result(PATIENCE)
        with pytest.raises(NotReady):
            now(batcher, text(2, 4))
        assert not batcher.healthy
        assert batcher.waiting == 0
