from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.batching.priority import Priority, PriorityPool
from multimodal_embedding_serving.batching.queue import Entry, Queue
from multimodal_embedding_serving.errors import NotReady
from multimodal_embedding_serving.types import Vector
from tests.fakes import PATIENCE, text_features


def test_the_pool_takes_interactive_tasks_before_waiting_bulk_tasks() -> None:
    order: list[str] = []
    gate, started = threading.Event(), threading.Event()

    def first() -> None:
        started.set()
        assert gate.wait(PATIENCE)

    with PriorityPool(1) as pool:
        pool.enter(Priority.BULK, first)
        assert started.wait(PATIENCE)
        for name in ("bulk 1", "bulk 2"):
            pool.enter(Priority.BULK, partial(order.append, name))
        pool.enter(Priority.INTERACTIVE, partial(order.append, "quick"))
        gate.set()
    assert order == ["quick", "bulk 1", "bulk 2"]


class Gates:
    """Tasks that note their start and wait."""

    def __init__(self, pool: PriorityPool) -> None:
        self.pool, self.started = pool, list[str]()
        self.changed = threading.Condition()
        self.open = threading.Event()

    def enter(self, priority: Priority, name: str) -> None:
        """A task of the client that the name begins with."""
        self.pool.enter(priority, partial(self._run, name), name[0])

    def _run(self, name: str) -> None:
        with self.changed:
            self.started.append(name)
            self.changed.notify_all()
        assert self.open.wait(PATIENCE)

    def wait_for(self, count: int) -> list[str]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.started) >= count, PATIENCE)
            return list(self.started)


def test_one_thread_is_reserved_for_interactive_tasks_of_clients_without_a_running_one() -> None:
    with PriorityPool(2) as pool:
        gates = Gates(pool)
        for name in ("a1", "a2", "a3", "b1"):
            gates.enter(Priority.BULK, name)
        gates.wait_for(2)
        gates.enter(Priority.INTERACTIVE, "a4")
        gates.enter(Priority.INTERACTIVE, "c1")
        assert gates.wait_for(3) == ["a1", "a2", "c1"]
        gates.open.set()
    assert sorted(gates.started[3:]) == ["a3", "a4", "b1"]


def test_clients_take_turns_in_the_pool() -> None:
    with PriorityPool(1) as pool:
        gates = Gates(pool)
        gates.enter(Priority.BULK, "a0")
        gates.wait_for(1)
        for name in ("a1", "a2", "a3", "b1", "b2", "c1"):
            gates.enter(Priority.BULK, name)
        gates.open.set()
    assert gates.started == ["a0", "a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_task_that_raises_holds_back_no_other() -> None:
    done = threading.Event()
    with PriorityPool(1) as pool:
        for _ in range(3):
            pool.enter(Priority.BULK, partial(divmod, 1, 0))
        pool.enter(Priority.BULK, done.set)
        assert done.wait(PATIENCE)


def test_a_pool_that_was_shut_down_takes_no_task() -> None:
    pool = PriorityPool(1)
    pool.shutdown()
    with pytest.raises(NotReady):
        pool.enter(Priority.BULK, lambda: None)


def entry(number: int, cost: int, *, waiting: bool = True) -> Entry:
    row = text_features(*[number] * cost).row
    waiters: list[tuple[Future[Vector], float]] = [(Future(), inf)] if waiting else []
    return Entry(row, cost, (Priority.BULK, bytes([number])), waiters)


def test_the_oldest_entry_is_joined_by_those_nearest_to_it_in_cost() -> None:
    queue = Queue()
    for number, cost in enumerate([20, 26, 14, 21, 19]):
        queue.put(entry(number, cost))
    batch = queue.pick(3, 1000, 50, 0.0).batch
    assert [each.cost for each in batch] == [20, 21, 19]


def test_waiters_that_are_late_are_set_apart_and_the_others_start() -> None:
    queue = Queue()
    late: Future[Vector] = Future()
    queue.put(entry(0, 4))
    queue.put(Entry(text_features(1, 1, 1, 1).row, 4, (Priority.BULK, b"1"), [(late, 5.0)]))
    selection = queue.pick(8, 1000, 50, 5.0)
    assert selection.late == [late]
    assert [each.row[0] for each in selection.batch] == [0]
    assert [each.row[0] for each in selection.abandoned] == [1]
    assert selection.batch[0].waiters[0][0].running()


@given(
    costs=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    gone=st.lists(st.booleans(), min_size=1, max_size=30),
    limit=st.integers(1, 8),
    max_cost=st.integers(1, 200),
    padding=st.integers(0, 60),
)
def test_a_queue_gives_every_entry_once_and_keeps_to_its_limits(
    costs: list[int], gone: list[bool], limit: int, max_cost: int, padding: int
) -> None:
    queue = Queue()
    left: list[Entry] = []
    abandoned: list[Entry] = []
    for number, cost in enumerate(costs):
        waiting = not gone[number % len(gone)]
        each = entry(number, cost, waiting=waiting)
        queue.put(each)
        (left if waiting else abandoned).append(each)
    assert queue.count == len(costs)
    dropped: list[Entry] = []
    while True:
        selection = queue.pick(limit, max_cost, padding, 0.0)
        batch = selection.batch
        dropped += selection.abandoned
        if not batch:
            break
        assert batch[0] is left[0]
        longest, total = max(each.cost for each in batch), sum(each.cost for each in batch)
        assert len(batch) <= limit
        assert len(batch) == 1 or len(batch) * longest <= max_cost
        assert len(batch) * longest - total <= padding
        assert all(any(each is one for one in left) for each in batch)
        left = [each for each in left if not any(each is one for one in batch)]
    assert not left
    assert sorted(map(id, dropped)) == sorted(map(id, abandoned))
    assert queue.count == 0
    assert not list(queue)
