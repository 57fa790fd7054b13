"""The entries that wait for one graph, and which of them form the next batch.

The oldest waiting entry is always in the next batch of its priority, together with those closest to
it in length, as long as their padding costs less than a call of their own would. Interactive
entries go first; bulk gets a turn now and then. Equal rows in flight are computed once.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, inf

import numpy as np

from multimodal_embedding_serving.batching.priority import Priority
from multimodal_embedding_serving.errors import DeadlineExceeded, GraphFailed, NotReady
from multimodal_embedding_serving.types import Features, Row, Vector

MAX_INTERACTIVE_TURNS = 4
"""While both priorities wait, bulk gets one batch after this many interactive ones."""
RECENT_SECONDS, MAX_BULK_SECONDS = 1.0, 0.05
"""For RECENT_SECONDS after an interactive entry, a bulk batch is limited to what the graph computes
in MAX_BULK_SECONDS (but at least one entry), because the next interactive entry may have to wait
for all of it. Long texts gain nothing from batching anyway."""
THROUGHPUT_SMOOTHING = 0.2
"""The weight of the latest call in the estimate of the graph's throughput."""
MAX_KEY_BYTES = 4096
"""Longer rows are identified by a hash, to keep the queue small."""
TOO_LATE = (
    "the request's deadline passed before this item was processed "
    "(see EMBEDDING_REQUEST_TIMEOUT_SEC)"
)


@dataclass(slots=True, eq=False)
class Entry:
    """One row for a graph, and the futures that wait for its vector, each with a deadline."""

    row: Row
    cost: int
    key: tuple[Priority, bytes]
    waiters: list[tuple[Future[Vector], float]] = field(default_factory=list)
    taken: bool = False
    queued_at: float = 0.0
    taken_at: float = 0.0
    """When it was queued and taken by a worker, on the schedule's clock."""

    @property
    def priority(self) -> Priority:
        return self.key[0]

    def take(self, now: float) -> list[Future[Vector]]:
        """Start the futures that were not cancelled; return those whose deadline has passed."""
        self.taken, self.taken_at = True, now
        alive = [each for each in self.waiters if each[0].set_running_or_notify_cancel()]
        self.waiters = [each for each in alive if each[1] > now]
        return [future for future, deadline in alive if deadline <= now]

    def answer(self, answer: Vector | GraphFailed | NotReady) -> None:
        """Answer every waiter; each gets its own error, because the item's index is set on it."""
        for future, _ in self.waiters:
            if isinstance(answer, GraphFailed | NotReady):
                future.set_exception(type(answer)(answer.message))
            else:
                future.set_result(answer)


@dataclass(slots=True)
class Selection:
    """What `Queue.pick` removed from the queue."""

    batch: list[Entry] = field(default_factory=list)
    """Entries for one call of the graph."""
    late: list[Future[Vector]] = field(default_factory=list)
    """Futures whose deadline has passed."""
    abandoned: list[Entry] = field(default_factory=list)
    """Entries that nothing waits for any more."""

    def add(self, entry: Entry, now: float) -> bool:
        """Start an entry; return False if nothing waits for it any more."""
        self.late += entry.take(now)
        (self.batch if entry.waiters else self.abandoned).append(entry)
        return bool(entry.waiters)


class Queue:
    """The waiting entries of one priority."""

    def __init__(self) -> None:
        self._by_age: deque[Entry] = deque()
        self._by_cost: dict[int, deque[Entry]] = {}
        self.count = 0

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entry in self._by_age if not entry.taken)

    def put(self, entry: Entry) -> None:
        self._by_age.append(entry)
        self._by_cost.setdefault(entry.cost, deque()).append(entry)
        self.count += 1

    def pick(self, limit: int, max_cost: int, max_padding: int, now: float) -> Selection:
        """Remove the oldest entry and those closest to it in cost.

        At most `limit` entries, `max_cost` tokens once padded (but always one entry) and
        `max_padding` tokens of padding.
        """
        selection = Selection()
        while self._by_age and not selection.batch:
            selection.add(self._pop(self._by_age[0].cost), now)
            self._drop_taken()
        if not selection.batch:
            return selection
        longest = total = oldest = selection.batch[0].cost
        for cost in sorted(self._by_cost, key=lambda cost: abs(cost - oldest)):
            top = max(longest, cost)
            while len(selection.batch) < limit and cost in self._by_cost:
                padded = (len(selection.batch) + 1) * top
                if padded > max_cost or padded - total - cost > max_padding:
                    break
                if selection.add(self._pop(cost), now):
                    total, longest = total + cost, top
        self._drop_taken()
        return selection

    def _pop(self, cost: int) -> Entry:
        """Remove the oldest entry of this cost."""
        bucket = self._by_cost[cost]
        entry = bucket.popleft()
        if not bucket:
            del self._by_cost[cost]
        self.count -= 1
        return entry

    def _drop_taken(self) -> None:
        while self._by_age and self._by_age[0].taken:
            self._by_age.popleft()


class Schedule:
    """The queues of one graph. Thread-safe; `take`, `take_blocked` and `wait_until_blocked` block.

    Deadlines are readings of `clock`.
    """

    def __init__(
        self, *, max_batch: int, max_cost: int, call_cost: int, clock: Callable[[], float]
    ) -> None:
        self._max_batch, self._max_cost, self._call_cost = max_batch, max_cost, call_cost
        self._clock = clock
        self._lock = threading.Lock()
        self._work, self._blocked = threading.Condition(self._lock), threading.Condition(self._lock)
        self._queues = {priority: Queue() for priority in Priority}
        self._entries: dict[tuple[Priority, bytes], Entry] = {}
        self._idle = self._turns = self._bulk_running = 0
        self._interactive_at = -inf
        self._throughput = 0.0  # cost per second; 0: not measured yet
        self._bulk_paused = False
        self.closed = False

    @property
    def waiting(self) -> int:
        """The number of entries that no worker has taken yet."""
        return sum(queue.count for queue in self._queues.values())

    def put(
        self, features: Sequence[Features], priority: Priority, deadline: float | None
    ) -> list[Future[Vector]]:
        """Queue items -> a future for each, of its vector or an EmbeddingError. Raises NotReady."""
        keys = [(priority, _row_key(each.row)) for each in features]
        futures: list[Future[Vector]] = [Future() for _ in features]
        with self._lock:
            if self.closed:
                raise NotReady("the model is closed")
            if priority is Priority.INTERACTIVE:
                self._interactive_at = self._clock()
            for each, key, future in zip(features, keys, futures, strict=True):
                entry = self._entries.get(key)
                if entry is None:
                    entry = Entry(each.row, each.cost, key, queued_at=self._clock())
                    self._entries[key] = entry
                    self._queues[priority].put(entry)
                elif entry.taken:
                    future.set_running_or_notify_cancel()
                entry.waiters.append((future, inf if deadline is None else deadline))
            self._work.notify(len(futures))
            self._notify_blocked()
        return futures

    def take(self) -> list[Entry] | None:
        """Wait for a worker's next batch, which may be empty; return None once closed.

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
            self._notify_blocked()
        _fail_late(late)
        return batch

    def take_blocked(self) -> list[Entry] | None:
        """Wait until bulk blocks interactive entries, then take these; return None once closed."""
        if not self.wait_until_blocked():
            return None
        with self._lock:
            batch, late = self._pick(Priority.INTERACTIVE, self._max_cost)
        _fail_late(late)
        return batch

    def wait_until_blocked(self) -> bool:
        """Wait until interactive entries wait for a bulk batch; return False once closed."""
        with self._lock:
            self._blocked.wait_for(lambda: self.closed or self._is_blocked)
            return not self.closed

    def finish(self, batch: Sequence[Entry]) -> None:
        """Forget the entries, which are about to be answered: equal rows are computed again."""
        with self._lock:
            for entry in batch:
                del self._entries[entry.key]

    def release(self, batch: Sequence[Entry]) -> None:
        """Note that the worker that took this batch is free again."""
        with self._lock:
            self._bulk_running -= _is_bulk(batch)

    @contextmanager
    def pause_bulk(self) -> Iterator[None]:
        """Hand out no bulk batches inside the `with` block."""
        self._bulk_paused = True
        try:
            yield
        finally:
            with self._lock:
                self._bulk_paused = False
                self._work.notify_all()

    def learn(self, cost: int, seconds: float) -> None:
        """Update the graph's throughput. Unlocked: any of several workers' figures will do."""
        if seconds > 0:
            latest, average = cost / seconds, self._throughput
            change = THROUGHPUT_SMOOTHING * (latest - average)
            self._throughput = average + change if average else latest

    def close(self) -> None:
        """Fail waiting entries with NotReady, and wake the threads that wait for work."""
        with self._lock:
            self.closed = True
            entries = [entry for queue in self._queues.values() for entry in queue]
            self._queues = {priority: Queue() for priority in Priority}
            for entry in entries:
                entry.take(-inf)
            self._work.notify_all()
            self._blocked.notify_all()
        for entry in entries:
            entry.answer(NotReady("the model was closed before this item was processed"))

    # ── under the lock ──

    @property
    def _has_work(self) -> bool:
        interactive = self._queues[Priority.INTERACTIVE].count
        return bool(interactive if self._bulk_paused else self.waiting)

    @property
    def _is_blocked(self) -> bool:
        waiting = self._queues[Priority.INTERACTIVE].count
        return bool(waiting and self._bulk_running and not self._idle)

    def _notify_blocked(self) -> None:
        if self._is_blocked:
            self._blocked.notify()

    def _next_batch(self) -> tuple[list[Entry], list[Future[Vector]]]:
        """A batch of the priority whose turn it is, and the futures whose deadline has passed."""
        priority, cost = Priority.INTERACTIVE, self._max_cost
        waiting, bulk = self._queues[priority].count, self._queues[Priority.BULK].count
        self._turns = self._turns + 1 if bulk and waiting else 0
        if not waiting or (self._turns > MAX_INTERACTIVE_TURNS and not self._bulk_paused):
            priority, self._turns = Priority.BULK, 0
            if self._clock() - self._interactive_at < RECENT_SECONDS:
                cost = min(cost, int(self._throughput * MAX_BULK_SECONDS))
        return self._pick(priority, cost)

    def _pick(self, priority: Priority, max_cost: int) -> tuple[list[Entry], list[Future[Vector]]]:
        """A batch of this priority, and the futures whose deadline has passed."""
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


def _row_key(row: Row) -> bytes:
    """A key that equal rows share. 224 x 224 pixels take 0.1 ms, and 10 ms or more in the graph."""
    if row.nbytes <= MAX_KEY_BYTES:
        return row.tobytes()
    return hashlib.sha256(np.ascontiguousarray(row).data).digest()
