"""Merges the items of concurrent requests into batches for one graph.

Knows no model and no event loop. Each of the graph's `parallel` workers is a thread that takes the
next batch as soon as it is free: at once if an item is waiting, and otherwise everything that piled
up while it was busy. Nothing here sleeps or polls. `queue` decides which items form a batch; items
blocked by a long bulk batch may be computed on a copy of the graph, in `replica`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np

from multimodal_embedding_serving.batching.priority import Priority, lower_priority
from multimodal_embedding_serving.batching.queue import Entry, Schedule
from multimodal_embedding_serving.batching.replica import OpenReplica, Replica
from multimodal_embedding_serving.errors import GraphFailed
from multimodal_embedding_serving.types import (
    Features,
    Graph,
    Row,
    StageTimer,
    Vector,
    Vectors,
    ignore_stage,
)

log = logging.getLogger(__name__)

CALL_COST = 16
"""The overhead of one call of the graph, in tokens: a CLIP text of 16 tokens takes 7 ms alone and
3.5 ms as one of many (performance.md), so half of the 7 ms is overhead."""
MAX_FAILURES = 3
"""After this many failed batches in a row the graph is tested."""


class Batcher:
    """One graph's queue and workers.

    `on_batch(items)` is called with the size of every batch, `on_stage` with the seconds that each
    row waited and that each call of the graph took. `on_suspect()` is called on a worker's
    thread, never twice at a time, after a NaN or after MAX_FAILURES failed batches in a row: it
    must test the graph directly (not through this batcher, whose worker it occupies) and raise if
    the graph is broken; `healthy` is False from then on. Deadlines are readings of `clock`.
    `open_replica` is called at most once, on a thread of its own; the copy is closed with the
    batcher.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        name: str,
        max_batch: int,
        max_cost: int,
        call_cost: int = CALL_COST,
        on_batch: Callable[[int], None] | None = None,
        on_stage: StageTimer = ignore_stage,
        on_suspect: Callable[[], None] | None = None,
        open_replica: OpenReplica | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._graph, self._clock = graph, clock
        self._on_batch, self._on_stage, self._on_suspect = on_batch, on_stage, on_suspect
        self._schedule = Schedule(
            max_batch=max_batch, max_cost=max_cost, call_cost=call_cost, clock=clock
        )
        self._lock = threading.Lock()
        self._failures = 0
        self._suspicious = self._broken = False
        self._workers = [
            threading.Thread(target=self._work, name=f"{name}-graph-{number}", daemon=True)
            for number in range(graph.parallel)
        ]
        if open_replica:
            self._workers.append(Replica(self._schedule, self, open_replica, name=name))
        for worker in self._workers:
            worker.start()

    @property
    def healthy(self) -> bool:
        return not (self._schedule.closed or self._broken)

    @property
    def waiting(self) -> int:
        """The number of items that no worker has taken yet."""
        return self._schedule.waiting

    def submit(
        self, features: Sequence[Features], *, priority: Priority, deadline: float | None = None
    ) -> list[Future[Vector]]:
        """Queue items -> a future for each, of its vector or an EmbeddingError.

        Cancel a future to drop its item. Raises NotReady once closed.
        """
        return self._schedule.put(features, priority, deadline)

    def close(self) -> None:
        """Fail waiting items with NotReady, finish running batches, stop the workers."""
        self._schedule.close()
        for worker in self._workers:
            if worker is not threading.current_thread():
                worker.join()

    def run(self, batch: Sequence[Entry]) -> None:
        """Compute and answer a batch; if it fails as a whole, item by item."""
        started, rows = self._clock(), [entry.row for entry in batch]
        try:
            answers, suspicious = self._compute(self._graph, rows)
            self._failures = 0
            cost = len(batch) * max(entry.cost for entry in batch)
            self._schedule.learn(cost, self._clock() - started)
        except Exception:
            log.exception("a batch of %d items failed; retrying them one by one", len(batch))
            answers, suspicious = self._one_by_one(rows)
        self._answer(batch, answers)
        if suspicious:
            self._suspect()

    def try_run(self, batch: Sequence[Entry], graph: Graph) -> bool:
        """Compute and answer a batch on a copy; return False, without answers, if that fails."""
        try:
            answers, failed = self._compute(graph, [entry.row for entry in batch])
        except Exception:
            log.exception("a batch failed on the interactive replica")
            return False
        if not failed:
            self._answer(batch, answers)
        return not failed

    def _work(self) -> None:
        lower_priority()
        while (batch := self._schedule.take()) is not None:
            if batch:
                self.run(batch)
            self._schedule.release(batch)

    def _answer(self, batch: Sequence[Entry], answers: Sequence[Vector | GraphFailed]) -> None:
        if self._on_batch:
            self._on_batch(len(batch))
        for entry in batch:
            self._on_stage("wait", entry.taken_at - entry.queued_at)
        self._schedule.finish(batch)
        for entry, answer in zip(batch, answers, strict=True):
            entry.answer(answer)

    def _compute(
        self, graph: Graph, rows: Sequence[Row]
    ) -> tuple[list[Vector | GraphFailed], bool]:
        """An answer per row, and whether one of them contained NaN or infinity."""
        started = self._clock()
        vectors: Vectors = graph(rows)
        self._on_stage("compute", self._clock() - started)
        if vectors.shape != (len(rows), self._graph.dimension):
            expected = (len(rows), self._graph.dimension)
            raise ValueError(f"the graph returned shape {vectors.shape} instead of {expected}")
        answers: list[Vector | GraphFailed] = list(vectors)
        not_finite = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        for index in not_finite:
            answers[index] = GraphFailed("the model returned NaN or infinity for this item")
        return answers, bool(not_finite.size)

    def _one_by_one(self, rows: Sequence[Row]) -> tuple[list[Vector | GraphFailed], bool]:
        """The same after the batch failed as a whole: only the items at fault fail."""
        with self._lock:
            self._failures += 1
            suspicious = self._failures >= MAX_FAILURES
        answers: list[Vector | GraphFailed] = []
        for row in rows:
            try:
                answer, not_finite = self._compute(self._graph, [row])
            except Exception:
                log.exception("an item failed both in its batch and alone")
                answer, not_finite = [GraphFailed("the model failed on this item")], False
            answers, suspicious = answers + answer, suspicious or not_finite
        return answers, suspicious

    def _suspect(self) -> None:
        with self._lock:
            if self._suspicious or self._on_suspect is None:
                return
            self._suspicious, self._failures = True, 0
        try:
            self._on_suspect()
        except Exception:
            log.exception("the graph failed its self-test")
            self._broken = True
        finally:
            self._suspicious = False
