"""What waits for one graph at one priority: entries by age and by cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from multimodal_embedding_serving.batching.priority import Priority
from multimodal_embedding_serving.errors import GraphFailed, NotReady
from multimodal_embedding_serving.types import Row, Vector


@dataclass(slots=True, eq=False)
class Entry:
    """One row for a graph, and everyone who waits for its vector, each with a deadline."""

    row: Row
    cost: int
    key: tuple[Priority, bytes]
    waiters: list[tuple[Future[Vector], float]] = field(default_factory=list)
    taken: bool = False

    @property
    def priority(self) -> Priority:
        return self.key[0]

    def take(self, now: float) -> list[Future[Vector]]:
        """Start everyone who still waits; return those whose deadline has passed."""
        self.taken = True
        alive = [each for each in self.waiters if each[0].set_running_or_notify_cancel()]
        self.waiters = [each for each in alive if each[1] > now]
        return [future for future, deadline in alive if deadline <= now]

    def answer(self, answer: Vector | GraphFailed | NotReady) -> None:
        """Answer every waiter; each gets an error of its own, which will carry its item's index."""
        for future, _ in self.waiters:
            if isinstance(answer, GraphFailed | NotReady):
                future.set_exception(type(answer)(answer.message))
            else:
                future.set_result(answer)


@dataclass(slots=True)
class Selection:
    """What `Queue.pick` took out of the queue."""

    batch: list[Entry] = field(default_factory=list)
    """Entries for one call of the graph."""
    late: list[Future[Vector]] = field(default_factory=list)
    """Waiters whose deadline had passed."""
    abandoned: list[Entry] = field(default_factory=list)
    """Entries that nobody waits for any more."""

    def add(self, entry: Entry, now: float) -> bool:
        """Start an entry; False where nobody waits for it any more."""
        self.late += entry.take(now)
        (self.batch if entry.waiters else self.abandoned).append(entry)
        return bool(entry.waiters)


class Queue:
    """The entries that wait at one priority."""

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
        """The oldest entry, joined by those nearest to it in cost.

        At most `limit` entries, `max_cost` tokens once padded (but always one entry) and
        `max_padding` tokens of padding.
        """
        selection = Selection()
        while self._by_age and not selection.batch:
            selection.add(self._pop(self._by_age[0].cost), now)
            self._forget_taken()
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
        self._forget_taken()
        return selection

    def _pop(self, cost: int) -> Entry:
        """The oldest entry of this cost."""
        bucket = self._by_cost[cost]
        entry = bucket.popleft()
        if not bucket:
            del self._by_cost[cost]
        self.count -= 1
        return entry

    def _forget_taken(self) -> None:
        while self._by_age and self._by_age[0].taken:
            self._by_age.popleft()
