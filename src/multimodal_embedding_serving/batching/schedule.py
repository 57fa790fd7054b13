"""Which entries a graph computes next: both queues, and the one lock that guards them.

The oldest waiting entry is always in the next batch of its priority, joined by those nearest to it
in length, as long as their padding costs less than a call of their own would. Interactive entries
go first, and bulk gets a turn now and then. Equal rows in flight are computed once.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from math import ceil, inf

import numpy as np

from multimodal_embedding_serving.batching.priority import Priority
from multimodal_embedding_serving.batching.queue import Entry, Queue
from multimodal_embedding_serving.errors import DeadlineExceeded, NotReady
from multimodal_embedding_serving.types import Features, Row, Vector

MAX_INTERACTIVE_TURNS = 4
"""While both priorities wait, bulk gets one batch after so many interactive ones."""
RECENT_SECONDS, MAX_BULK_SECONDS = 1.0, 0.05
"""For RECENT_SECONDS after an interactive entry, a bulk batch is cut to what the graph does in
MAX_BULK_SECONDS (but to one entry at least), because the next interactive entry may have to wait
for all of it. Long texts gain nothing from company anyway."""
PACE_SMOOTHING = 0.2
"""The weight of the latest call in the estimate of the graph's pace."""
MAX_KEY_BYTES = 4096
"""A longer row is identified by its hash, to keep the queue small."""
TOO_LATE = "the deadline passed before this item's turn"


class Schedule:
    """The queues of one graph. Every method is safe to call from any thread; `take` and
    `take_held_up` block. Deadlines are readings of `clock`."""

    def __init__(
        self, *, max_batch: int, max_cost: int, call_cost: int, clock: Callable[[], float]
    ) -> None:
        self._max_batch, self._max_cost, self._call_cost = max_batch, max_cost, call_cost
        self._clock = clock
        self._lock = threading.Lock()
        self._work, self._held_up = threading.Condition(self._lock), threading.Condition(self._lock)
        self._queues = {priority: Queue() for priority in Priority}
        self._entries: dict[tuple[Priority, bytes], Entry] = {}
        self._idle = self._turns = self._bulk_running = 0
        self._interactive_at = -inf
        self._pace = 0.0  # cost a second; 0: not measured yet
        self._bulk_paused = False
        self.closed = False

    @property
    def waiting(self) -> int:
        """Entries that no worker has taken yet."""
        return sum(queue.count for queue in self._queues.values())

    def put(
        self, features: Sequence[Features], priority: Priority, deadline: float | None
    ) -> list[Future[Vector]]:
        """Queue items; each future gets its vector or an EmbeddingError. Raises NotReady."""
        keys = [(priority, _identity(each.row)) for each in features]
        futures: list[Future[Vector]] = [Future() for _ in features]
        with self._lock:
            if self.closed:
                raise NotReady("the model is closed")
            if priority is Priority.INTERACTIVE:
                self._interactive_at = self._clock()
            for each, key, future in zip(features, keys, futures, strict=True):
                entry = self._entries.get(key)
                if entry is None:
                    entry = self._entries[key] = Entry(each.row, each.cost, key)
                    self._queues[priority].put(entry)
                elif entry.taken:
                    future.set_running_or_notify_cancel()
                entry.waiters.append((future, inf if deadline is None else deadline))
            self._work.notify(len(futures))
            self._notify_held_up()
        return futures

    def take(self) -> list[Entry] | None:
        """The next batch of a worker, which may be empty; None once closed.

        The worker calls `release` with the batch when it is free again.
        """
        with self._lock:
            while not (self.closed or self._has_work):
                self._idle += 1
                self._work.wait()
                self._idle -= 1
            if self.closed:
                return None
            batch, late = self._next_batch()
            self._bulk_running += _is_bulk(batch)
            if self.waiting:
                self._work.notify()
            self._notify_held_up()
        _fail_late(late)
        return batch

    def take_held_up(self) -> list[Entry] | None:
        """Wait until bulk holds up interactive entries, then take these; None once closed."""
        if not self.wait_until_held_up():
            return None
        with self._lock:
            batch, late = self._pick(Priority.INTERACTIVE, self._max_cost)
        _fail_late(late)
        return batch

    def wait_until_held_up(self) -> bool:
        """Wait until interactive entries wait for the end of a bulk batch; False once closed."""
        with self._lock:
            self._held_up.wait_for(lambda: self.closed or self._holds_up)
            return not self.closed

    def finish(self, batch: Sequence[Entry]) -> None:
        """Equal rows that come from now on are computed anew: these are about to be answered."""
        with self._lock:
            for entry in batch:
                del self._entries[entry.key]

    def release(self, batch: Sequence[Entry]) -> None:
        """The worker that took this batch is free again."""
        with self._lock:
            self._bulk_running -= _is_bulk(batch)

    @contextmanager
    def pausing_bulk(self) -> Iterator[None]:
        """Hand out no bulk batches meanwhile, as long as anything interactive may come."""
        self._bulk_paused = True
        try:
            yield
        finally:
            with self._lock:
                self._bulk_paused = False
                self._work.notify_all()

    def learn(self, cost: int, seconds: float) -> None:
        """How fast the graph is. Workers may write at once: any of their figures will do."""
        if seconds > 0:
            pace, known = cost / seconds, self._pace
            self._pace = known + PACE_SMOOTHING * (pace - known) if known else pace

    def close(self) -> None:
        """Fail what waits with NotReady, and wake everyone who waits for work."""
        with self._lock:
            self.closed = True
            left = [entry for queue in self._queues.values() for entry in queue]
            self._queues = {priority: Queue() for priority in Priority}
            for entry in left:
                entry.take(-inf)
            self._work.notify_all()
            self._held_up.notify_all()
        for entry in left:
            entry.answer(NotReady("the model was closed before this item's turn"))

    # ── under the lock ──

    @property
    def _has_work(self) -> bool:
        interactive = self._queues[Priority.INTERACTIVE].count
        return bool(interactive if self._bulk_paused else self.waiting)

    @property
    def _holds_up(self) -> bool:
        waiting = self._queues[Priority.INTERACTIVE].count
        return bool(waiting and self._bulk_running and not self._idle)

    def _notify_held_up(self) -> None:
        if self._holds_up:
            self._held_up.notify()

    def _next_batch(self) -> tuple[list[Entry], list[Future[Vector]]]:
        """A batch of the priority whose turn it is, and those whose deadline has passed."""
        priority, cost = Priority.INTERACTIVE, self._max_cost
        waiting, bulk = self._queues[priority].count, self._queues[Priority.BULK].count
        self._turns = self._turns + 1 if bulk and waiting else 0
        if not waiting or (self._turns > MAX_INTERACTIVE_TURNS and not self._bulk_paused):
            priority, self._turns = Priority.BULK, 0
            if self._clock() - self._interactive_at < RECENT_SECONDS:
                cost = min(cost, int(self._pace * MAX_BULK_SECONDS))
        return self._pick(priority, cost)

    def _pick(self, priority: Priority, max_cost: int) -> tuple[list[Entry], list[Future[Vector]]]:
        """A batch of this priority, and those whose deadline has passed."""
        queue = self._queues[priority]
        share = ceil(queue.count / (self._idle + 1))
        limit = max(1, min(share, self._max_batch))
        selection = queue.pick(limit, max_cost, self._call_cost, self._clock())
        for entry in selection.abandoned:
            del self._entries[entry.key]
        return selection.batch, selection.late


def _is_bulk(batch: Sequence[Entry]) -> bool:
    return bool(batch) and batch[0].priority is Priority.BULK


def _fail_late(futures: Sequence[Future[Vector]]) -> None:
    for future in futures:
        future.set_exception(DeadlineExceeded(TOO_LATE))


def _identity(row: Row) -> bytes:
    """What equal rows share. 224 x 224 pixels take 0.1 ms, against 10 ms or more in the graph."""
    if row.nbytes <= MAX_KEY_BYTES:
        return row.tobytes()
    return hashlib.sha256(np.ascontiguousarray(row).data).digest()
