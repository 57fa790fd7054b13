"""Who goes first: two lanes, and the lines and threads that keep to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
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
        """Start everyone who still waits; returns those who waited too long, to be told."""
        self.taken = True
        alive = [each for each in self.waiters if each[0].set_running_or_notify_cancel()]
        self.waiters = [each for each in alive if each[1] > now]
        return [future for future, deadline in alive if deadline <= now]

    def answer(self, answer: Vector | GraphFailed | NotReady) -> None:
        """Tell everyone; each gets its own error, because an error learns its item's index."""
        for future, _ in self.waiters:
            if isinstance(answer, GraphFailed | NotReady):
                future.set_exception(type(answer)(answer.message))
            else:
                future.set_result(answer)


class Queue:
    """The jobs that wait in one lane, by age and by cost."""

    def __init__(self) -> None:
        self._by_age: deque[Entry] = deque()
        self._by_cost: dict[int, deque[Entry]] = {}
        self.count = 0

    def __iter__(self) -> Iterator[Entry]:
        return (job for job in self._by_age if not job.taken)

    def put(self, job: Entry) -> None:
        self._by_age.append(job)
        self._by_cost.setdefault(job.cost, deque()).append(job)
        self.count += 1

    def pick(
        self, limit: int, max_cost: int, padding: int, take: Callable[[Entry], bool]
    ) -> list[Entry]:
        """The oldest job, joined by those nearest to it in cost.

        At most `limit` jobs, `max_cost` tokens once padded (but always one job) and `padding`
        tokens of padding. `take(job)` starts a job, or says False: nobody waits for it any more.
        """
        batch: list[Entry] = []
        while self._by_age and not batch:
            job = self._pop(self._by_age[0].cost)
            batch += [job] if take(job) else []
            self._forget_taken()
        if not batch:
            return []
        longest = total = oldest = batch[0].cost
        for cost in sorted(self._by_cost, key=lambda cost: abs(cost - oldest)):
            top = max(longest, cost)
            while len(batch) < limit and cost in self._by_cost:
                padded = (len(batch) + 1) * top
                if padded > max_cost or padded - total - cost > padding:
                    break
                job = self._pop(cost)
                if take(job):
                    batch.append(job)
                    total, longest = total + cost, top
        self._forget_taken()
        return batch

    def _pop(self, cost: int) -> Entry:
        """The oldest job of this cost."""
        bucket = self._by_cost[cost]
        job = bucket.popleft()
        if not bucket:
            del self._by_cost[cost]
        self.count -= 1
        return job

    def _forget_taken(self) -> None:
        while self._by_age and self._by_age[0].taken:
            self._by_age.popleft()
