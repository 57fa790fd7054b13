"""What the batcher's tests share: a batcher over a fake graph, and what to submit to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np

from multimodal_embedding_serving.batching.batcher import Batcher
from multimodal_embedding_serving.batching.priority import Priority
from multimodal_embedding_serving.types import Features, Row, Vector
from tests.fakes import PATIENCE, FakeGraph, text_features, vector_of


@contextmanager
def batching(graph: FakeGraph, **options: Any) -> Iterator[Batcher]:
    limits: dict[str, Any] = {"max_batch": 8, "max_cost": 1024}
    batcher = Batcher(graph, name="text", **limits | options)
    try:
        yield batcher
    finally:
        graph.release()
        batcher.close()


def now(
    batcher: Batcher, *items: Features, priority: Priority = Priority.INTERACTIVE
) -> list[Future[Vector]]:
    return batcher.submit(items, priority=priority)


def occupy(
    batcher: Batcher, graph: FakeGraph, start: int = 9000, priority: Priority = Priority.INTERACTIVE
) -> list[Future[Vector]]:
    """Keep every worker of the graph busy, so that what is submitted next has to wait."""
    graph.hold()
    graph.forget_calls()
    futures = []
    for worker in range(graph.parallel):
        futures += now(batcher, text_features(start + worker), priority=priority)
        graph.wait_for_call()
    return futures


def wait_until_idle(batcher: Batcher, graph: FakeGraph) -> None:
    """Wait until every worker waits for work: on a busy machine a thread may start late."""
    limit = time.monotonic() + PATIENCE
    while batcher._schedule._idle < graph.parallel:
        assert time.monotonic() < limit
        time.sleep(0.001)


def text(number: int, cost: int) -> Features:
    """A text of `cost` tokens that is unlike any other number's."""
    return text_features(*[1000 + number] * cost)


def assert_answers(futures: Sequence[Future[Vector]], items: Sequence[Features]) -> None:
    for future, item in zip(futures, items, strict=True):
        np.testing.assert_array_equal(future.result(PATIENCE), vector_of(item.row))


def costs(batch: Sequence[Row]) -> list[int]:
    return [len(row) for row in batch]
