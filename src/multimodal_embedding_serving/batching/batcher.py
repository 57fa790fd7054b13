"""Merges what many requests wait for into batches of one graph; knows no model and no event loop.

Each of the graph's `parallel` workers is a thread that takes the next batch by itself: at once when
something waits, and whatever has piled up when it was busy. Nothing here sleeps or polls.

A batch is padded to its longest row, so it costs rows x longest. The oldest waiting item is always
in the next batch of its lane, joined by those nearest to it in length, as long as their padding
costs less than a call of their own would. Equal rows in flight are computed once.

A call can't be interrupted, and a long one holds up whoever comes behind it. So an interactive item
that finds every worker busy and one of them with bulk goes to the express: one more thread, with a
copy of the graph that is opened when it is first needed. The two share the processors meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from math import ceil, inf

import numpy as np

from multimodal_embedding_serving.batching.priority import (
    EXPRESS_NICENESS,
    Priority,
    lower_priority,
)
from multimodal_embedding_serving.batching.queue import Entry, Queue
from multimodal_embedding_serving.errors import DeadlineExceeded, GraphFailed, NotReady
from multimodal_embedding_serving.types import Features, Graph, Row, Vector, Vectors

__all__ = ["Batcher", "Priority"]

log = logging.getLogger(__name__)

CALL_COST = 16
"""What a call of the graph costs by itself, in tokens: a CLIP text of 16 tokens takes 7 ms alone
and 3.5 ms as one of many (performance.md), so half of the 7 ms is the call's."""
TURNS = 4
"""While both lanes wait, bulk gets one batch after so many interactive ones."""
SHORT_BULK, RECENT = 0.05, 1.0
"""Within RECENT seconds of an interactive item a bulk batch is cut to what the graph does in
SHORT_BULK seconds (but to one item at least), because the next one may have to wait for all of it.
Long texts gain nothing from company anyway."""
SMOOTH = 0.2
"""The weight of the last call in what is known of the graph's pace."""
FAILURES = 3
"""Failing batches in a row that make the graph suspicious."""
SHORT = 4096
"""Bytes of a row above which its hash stands for it, to keep the queue small."""
TOO_LATE = "the deadline passed before this item's turn"


OpenExpress = Callable[[], Graph | None]
"""Opens a copy of the graph; None where there is no room for one."""


class Batcher:
    """One graph's queue and workers.

    `on_batch(items)` hears of every batch. `on_suspect()` is called on a worker's thread, one at a
    time, after a NaN or three failing batches in a row: it tests the graph itself (never through
    this batcher, whose worker it occupies) and raises if the graph is broken; then `healthy` is
    False. Deadlines are readings of `clock`. `open_express` is called once, on a thread of its own;
    the copy is closed with the batcher.
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
        on_suspect: Callable[[], None] | None = None,
        open_express: OpenExpress | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._graph, self._max_batch, self._max_cost = graph, max_batch, max_cost
        self._call_cost, self._clock = call_cost, clock
        self._on_batch, self._on_suspect = on_batch, on_suspect
        lock = threading.Lock()
        self._ready, self._overtake = threading.Condition(lock), threading.Condition(lock)
        self._queues = {priority: Queue() for priority in Priority}
        self._jobs: dict[tuple[Priority, bytes], Entry] = {}
        self._idle = self._turns = self._failures = self._bulk_running = 0
        self._interactive_at = -inf
        self._pace = 0.0  # cost a second; 0: not known yet
        self._suspicious = self._broken = self._closed = self._opening = False
        self._workers = [
            threading.Thread(target=self._work, name=f"{name}-graph-{number}", daemon=True)
            for number in range(graph.parallel)
        ]
        if open_express:
            run = partial(self._run_express, open_express)
            self._workers.append(threading.Thread(target=run, name=f"{name}-express", daemon=True))
        for worker in self._workers:
            worker.start()

    @property
    def healthy(self) -> bool:
        return not (self._closed or self._broken)

    @property
    def waiting(self) -> int:
        """Items that no worker has taken yet."""
        return sum(line.count for line in self._queues.values())

    def submit(
        self, features: Sequence[Features], *, priority: Priority, deadline: float | None = None
    ) -> list[Future[Vector]]:
        """Queue items; each future gets its vector or an EmbeddingError. Cancel one to drop it.

        Raises NotReady once closed.
        """
        keys = [(priority, _identity(each.row)) for each in features]
        futures: list[Future[Vector]] = [Future() for _ in features]
        with self._ready:
            if self._closed:
                raise NotReady("the model is closed")
            if priority is Priority.INTERACTIVE:
                self._interactive_at = self._clock()
            for each, key, future in zip(features, keys, futures, strict=True):
                job = self._jobs.get(key)
                if job is None:
                    job = self._jobs[key] = Entry(each.row, each.cost, key)
                    self._queues[priority].put(job)
                elif job.taken:
                    future.set_running_or_notify_cancel()
                job.waiters.append((future, inf if deadline is None else deadline))
            self._ready.notify(len(futures))
            self._tell_express()
        return futures

    def close(self) -> None:
        """Fail what waits with NotReady, let running batches end, stop the workers."""
        with self._ready:
            self._closed = True
            left = [job for line in self._queues.values() for job in line]
            self._queues = {priority: Queue() for priority in Priority}
            for job in left:
                job.take(-inf)
            self._ready.notify_all()
            self._overtake.notify_all()
        for job in left:
            job.answer(NotReady("the model was closed before this item's turn"))
        for worker in self._workers:
            if worker is not threading.current_thread():
                worker.join()

    def _work(self) -> None:
        lower_priority()
        while True:
            with self._ready:
                while not (self._closed or self._has_work):
                    self._idle += 1
                    self._ready.wait()
                    self._idle -= 1
                if self._closed:
                    return
                batch, late = self._next_batch()
                bulk = bool(batch) and batch[0].priority is Priority.BULK
                self._bulk_running += bulk
                if self.waiting:
                    self._ready.notify()
                self._tell_express()
            _fail_late(late)
            if batch:
                self._run(batch)
            with self._ready:
                self._bulk_running -= bulk

    @property
    def _has_work(self) -> bool:
        """Under the lock. Opening a copy takes the processors; meanwhile bulk alone steps aside."""
        return bool(self._queues[Priority.INTERACTIVE].count if self._opening else self.waiting)

    @property
    def _held_up(self) -> bool:
        """Under the lock: whether interactive items wait for the end of a bulk batch."""
        waiting = self._queues[Priority.INTERACTIVE].count
        return bool(waiting and self._bulk_running and not self._idle)

    def _tell_express(self) -> None:
        """Under the lock."""
        if self._held_up:
            self._overtake.notify()

    def _run_express(self, open_express: OpenExpress) -> None:
        """The express's thread: it ends where no copy can be had, or when the copy has failed."""
        lower_priority(EXPRESS_NICENESS)
        if not self._wait_for_express():
            return
        self._opening = True
        try:
            graph = open_express()
        except Exception:
            log.exception("no express: a copy of the graph can't be opened")
            graph = None
        with self._ready:
            self._opening = False
            self._ready.notify_all()
        if graph is None:
            return
        while self._wait_for_express():
            with self._ready:
                batch, late = self._pick(Priority.INTERACTIVE, self._max_cost)
            _fail_late(late)
            if batch and not self._run_on_copy(graph, batch):
                break
        graph.close()

    def _wait_for_express(self) -> bool:
        """Until the express is needed; False once the batcher is closed."""
        with self._ready:
            self._overtake.wait_for(lambda: self._closed or self._held_up)
            return not self._closed

    def _next_batch(self) -> tuple[list[Entry], list[Future[Vector]]]:
        """Under the lock: the next lane's batch, and those whose deadline has passed."""
        priority, cost = Priority.INTERACTIVE, self._max_cost
        waiting, bulk = self._queues[priority].count, self._queues[Priority.BULK].count
        self._turns = self._turns + 1 if bulk and waiting else 0
        if not waiting or (self._turns > TURNS and not self._opening):
            priority, self._turns = Priority.BULK, 0
            if self._clock() - self._interactive_at < RECENT:
                cost = min(cost, int(self._pace * SHORT_BULK))
        return self._pick(priority, cost)

    def _pick(self, priority: Priority, cost: int) -> tuple[list[Entry], list[Future[Vector]]]:
        """Under the lock: a batch of this lane, and those whose deadline has passed."""
        now, line = self._clock(), self._queues[priority]
        share = ceil(line.count / (self._idle + 1))
        limit = max(1, min(share, self._max_batch))
        late: list[Future[Vector]] = []

        def take(job: Entry) -> bool:
            late.extend(job.take(now))
            if not job.waiters:
                del self._jobs[job.key]
            return bool(job.waiters)

        return line.pick(limit, cost, self._call_cost, take), late

    def _run(self, batch: list[Entry]) -> None:
        begun, rows = self._clock(), [job.row for job in batch]
        try:
            answers, suspicious = self._vectors(self._graph, rows)
            self._failures = 0
            self._learn(len(batch) * max(job.cost for job in batch), self._clock() - begun)
        except Exception:
            log.exception("a batch of %d failed; its items are tried one by one", len(batch))
            answers, suspicious = self._one_by_one(rows)
        self._answer(batch, answers)
        if suspicious:
            self._suspect()

    def _run_on_copy(self, copy: Graph, batch: list[Entry]) -> bool:
        """False where the copy has failed; the graph itself has answered then."""
        try:
            answers, bad = self._vectors(copy, [job.row for job in batch])
        except Exception:
            log.exception("the express has failed")
            bad = True
        if bad:
            log.error("no express any more: the graph itself takes its batch of %d", len(batch))
            self._run(batch)
        else:
            self._answer(batch, answers)
        return not bad

    def _answer(self, batch: list[Entry], answers: Sequence[Vector | GraphFailed]) -> None:
        if self._on_batch:
            self._on_batch(len(batch))
        with self._ready:
            for job in batch:
                del self._jobs[job.key]
        for job, answer in zip(batch, answers, strict=True):
            job.answer(answer)

    def _learn(self, cost: int, seconds: float) -> None:
        """How fast the graph is. Workers may write at once: any of their figures will do."""
        if seconds > 0:
            pace, known = cost / seconds, self._pace
            self._pace = known + SMOOTH * (pace - known) if known else pace

    def _vectors(
        self, graph: Graph, rows: Sequence[Row]
    ) -> tuple[list[Vector | GraphFailed], bool]:
        """An answer per row, and whether one of them held a NaN or an infinity."""
        vectors: Vectors = graph(rows)
        if vectors.shape != (len(rows), self._graph.dimension):
            raise ValueError(f"{len(rows)} rows gave vectors of shape {vectors.shape}")
        answers: list[Vector | GraphFailed] = list(vectors)
        bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        for index in bad:
            answers[index] = GraphFailed("the model gave no finite vector for this item")
        return answers, bool(bad.size)

    def _one_by_one(self, rows: Sequence[Row]) -> tuple[list[Vector | GraphFailed], bool]:
        """The same after the batch failed as a whole: only the culprits fail."""
        with self._ready:
            self._failures += 1
            suspicious = self._failures >= FAILURES
        answers: list[Vector | GraphFailed] = []
        for row in rows:
            try:
                answer, bad = self._vectors(self._graph, [row])
            except Exception:
                log.exception("an item failed in its batch and alone")
                answer, bad = [GraphFailed("the model failed on this item")], False
            answers, suspicious = answers + answer, suspicious or bad
        return answers, suspicious

    def _suspect(self) -> None:
        with self._ready:
            if self._suspicious or self._on_suspect is None:
                return
            self._suspicious, self._failures = True, 0
        try:
            self._on_suspect()
        except Exception:
            log.exception("the self-test of a suspicious graph failed")
            self._broken = True
        finally:
            self._suspicious = False


def _fail_late(futures: Sequence[Future[Vector]]) -> None:
    for future in futures:
        future.set_exception(DeadlineExceeded(TOO_LATE))


def _identity(row: Row) -> bytes:
    """What equal rows share. 224 x 224 pixels take 0.1 ms, against 10 ms or more in the graph."""
    if row.nbytes <= SHORT:
        return row.tobytes()
    return hashlib.sha256(np.ascontiguousarray(row).data).digest()
