"""Interactive items overtake a bulk batch that runs, on a copy of the graph."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest

from multimodal_embedding_serving.batching.priority import Priority
from multimodal_embedding_serving.batching.queue import MAX_INTERACTIVE_TURNS
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.conversion.build import build_bundle
from multimodal_embedding_serving.engine import Engine, loader
from multimodal_embedding_serving.errors import DeadlineExceeded, NotReady
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Graph, Row, Vectors
from tests.batching.scripted import assert_answers, batching, now, occupy, text, wait_until_idle
from tests.fakes import NOT_FINITE, PATIENCE, POISON, FakeClock, FakeGraph, text_features
from tests.small_model import small_conversion

bulk_running = partial(occupy, start=9000, priority=Priority.BULK)


@pytest.mark.parametrize("parallel", [1, 2])
def test_an_interactive_item_does_not_wait_for_the_end_of_bulk(parallel: int) -> None:
    graph, copy = FakeGraph(parallel=parallel), FakeGraph()
    with batching(graph, open_replica=lambda: copy) as batcher:
        bulk = bulk_running(batcher, graph)
        for number in range(3):
            assert_answers(now(batcher, text(number, 4)), [text(number, 4)])
        assert copy.sizes == [1, 1, 1]
        assert graph.sizes == [1] * parallel
        graph.release()
        assert_answers(bulk, [text_features(9000 + worker) for worker in range(parallel)])
    assert copy.closed


def test_what_waits_together_overtakes_together_but_bulk_stays() -> None:
    graph, copy = FakeGraph(), FakeGraph()
    with batching(graph, open_replica=lambda: copy) as batcher:
        bulk_running(batcher, graph)
        more = now(batcher, text(1, 4), priority=Priority.BULK)
        items = [text(number, 4) for number in range(10, 16)]
        assert_answers(now(batcher, *items), items)
        assert sum(copy.sizes) == 6
        assert copy.sizes[-1] > 1
        assert not more[0].done()


def test_no_copy_is_opened_before_bulk_blocks_an_item() -> None:
    graph, opened = FakeGraph(), threading.Event()

    def fail() -> Graph | None:
        opened.set()
        return None

    with batching(graph, open_replica=fail) as batcher:
        items = [text(number, 4) for number in range(4)]
        futures = occupy(batcher, graph) + now(batcher, *items)
        futures += now(batcher, text(50, 4), priority=Priority.BULK)
        graph.release()
        assert_answers(futures, [text_features(9000), *items, text(50, 4)])
        bulk_running(batcher, graph)
        assert not opened.is_set()
        now(batcher, text(60, 4))
        assert opened.wait(PATIENCE)


def test_a_worker_that_is_free_leaves_the_replica_alone() -> None:
    graph, copy = FakeGraph(parallel=2), FakeGraph()
    with batching(graph, open_replica=lambda: copy) as batcher:
        wait_until_idle(batcher, graph)
        graph.hold()
        now(batcher, text(0, 4), priority=Priority.BULK)
        graph.wait_for_call()
        now(batcher, text(1, 4))
        graph.wait_for_call()
        assert graph.sizes == [1, 1]
        assert copy.sizes == []


class Broken(FakeGraph):
    def __call__(self, rows: Sequence[Row]) -> Vectors:
        vectors = super().__call__(rows)
        raise RuntimeError(f"lost {len(vectors)} vectors")


class Nan(FakeGraph):
    def __call__(self, rows: Sequence[Row]) -> Vectors:
        return super().__call__(rows) * np.float32("nan")


@pytest.mark.parametrize("copy", [Broken(), Nan()], ids=["broken", "nan"])
def test_a_copy_that_fails_costs_nobody_an_answer(copy: FakeGraph) -> None:
    graph = FakeGraph()
    with batching(graph, open_replica=lambda: copy) as batcher:
        bulk = bulk_running(batcher, graph)
        futures = now(batcher, text(0, 4))
        copy.wait_for_call()
        graph.release()
        assert_answers(futures + bulk, [text(0, 4), text_features(9000)])
        bulk = bulk_running(batcher, graph, start=9500)
        futures = now(batcher, text(1, 4))
        graph.release()
        assert_answers(futures + bulk, [text(1, 4), text_features(9500)])
        assert batcher.healthy
    assert (copy.sizes, copy.closed) == ([1], True)


def test_an_item_that_fails_on_the_copy_is_tried_on_the_graph_and_fails_alone() -> None:
    graph, copy = FakeGraph(), FakeGraph()
    with batching(graph, open_replica=lambda: copy) as batcher:
        bulk_running(batcher, graph)
        bad, good = now(batcher, text_features(POISON, 1, 1, 1), text(1, 4))
        copy.wait_for_call()
        graph.release()
        assert bad.exception(PATIENCE)
        assert_answers([good], [text(1, 4)])
        (nan,) = now(batcher, text_features(NOT_FINITE))
        assert nan.exception(PATIENCE)


@pytest.mark.parametrize("fault", [None, OSError("no such file")])
def test_without_a_copy_items_wait_as_they_did(fault: Exception | None) -> None:
    called = threading.Event()

    def refuse() -> Graph | None:
        called.set()
        if fault:
            raise fault
        return None

    graph = FakeGraph()
    with batching(graph, open_replica=refuse) as batcher:
        bulk = bulk_running(batcher, graph)
        futures = now(batcher, text(0, 4))
        assert called.wait(PATIENCE)
        graph.release()
        assert_answers(futures + bulk, [text(0, 4), text_features(9000)])


def test_bulk_steps_aside_while_the_copy_is_opened() -> None:
    """Only what runs already goes on: opening takes the processors for a second or so."""
    opening, opened = threading.Event(), threading.Event()

    def open_slowly() -> Graph | None:
        opening.set()
        assert opened.wait(PATIENCE)
        return None

    graph = FakeGraph()
    with batching(graph, max_batch=1, open_replica=open_slowly) as batcher:
        running = bulk_running(batcher, graph)
        waiting = now(batcher, *[text(number, 4) for number in range(3)], priority=Priority.BULK)
        quick = now(batcher, text(10, 4))
        assert opening.wait(PATIENCE)
        graph.release()
        assert_answers(running + quick, [text_features(9000), text(10, 4)])
        more = [text(number, 4) for number in range(20, 20 + 2 * MAX_INTERACTIVE_TURNS)]
        assert_answers(now(batcher, *more), more)
        assert not any(future.done() for future in waiting)
        opened.set()
        assert_answers(waiting, [text(number, 4) for number in range(3)])


def test_a_late_item_does_not_reach_the_copy() -> None:
    graph, copy, clock = FakeGraph(), FakeGraph(), FakeClock()
    with batching(graph, open_replica=lambda: copy, clock=clock) as batcher:
        bulk_running(batcher, graph)
        (late,) = batcher.submit(
            [text(0, 4)], priority=Priority.INTERACTIVE, deadline=clock.now - 1
        )
        assert isinstance(late.exception(PATIENCE), DeadlineExceeded)
        assert copy.sizes == []


def test_closing_waits_for_the_replica_and_fails_what_waits() -> None:
    graph, copy = FakeGraph(), FakeGraph()
    copy.hold()
    with batching(graph, open_replica=lambda: copy) as batcher:
        bulk_running(batcher, graph)
        running = now(batcher, text(0, 4))
        copy.wait_for_call()
        waiting = now(batcher, text(1, 4))
        waiting[0].add_done_callback(lambda _: graph.release())
        waiting[0].add_done_callback(lambda _: copy.release())
        batcher.close()
        assert_answers(running, [text(0, 4)])
        assert isinstance(waiting[0].exception(PATIENCE), NotReady)
        assert copy.closed


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(small_conversion(), tmp_path_factory.mktemp("models") / "small")


WORDS = ("cat", "dog")
OPENED = "the interactive replica is open"


def embed_beside_bulk(bundle: Bundle, log: pytest.LogCaptureFixture, *, message: str) -> None:
    """Single texts have the same vectors beside ever more bulk, before and after the message."""
    settings = Settings.from_env({}, model=str(bundle.path), precision="f32", model_cache=False)
    bulk = [f"cat {number}" for number in range(2000)]
    with log.at_level(logging.INFO), Engine.open(settings=settings) as engine:
        alone, over = [engine.embed(texts=[word]) for word in WORDS], threading.Event()

        def more() -> None:
            while not over.is_set():
                engine.embed(texts=bulk)

        thread = threading.Thread(target=more)
        thread.start()
        try:
            end = time.monotonic() + PATIENCE
            while message not in log.text and time.monotonic() < end:
                assert all(map(np.array_equal, alone, [engine.embed(texts=[w]) for w in WORDS]))
            for _ in range(20):
                assert all(map(np.array_equal, alone, [engine.embed(texts=[w]) for w in WORDS]))
        finally:
            over.set()
            thread.join()
    assert message in log.text


def test_an_engine_opens_the_replica_and_gives_the_same_bits(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    embed_beside_bulk(bundle, caplog, message=OPENED)


def test_without_memory_there_is_no_replica(
    bundle: Bundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "free_memory", lambda: 1000)
    embed_beside_bulk(bundle, caplog, message="not enough memory")
    assert OPENED not in caplog.text
