from __future__ import annotations

import threading
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.batching.priority import Priority, PriorityPool
from multimodal_embedding_serving.batching.queue import Entry, Queue
from multimodal_embedding_serving.errors import NotReady
from tests.fakes import PATIENCE, text_features


def test_the_pool_takes_interactive_tasks_before_waiting_bulk_tasks() -> None:
    order: list[str] = []
    held, started = threading.Event(), threading.Event()

    def first() -> None:
        started.set()
        assert held.wait(PATIENCE)

    with PriorityPool(1) as pool:
        pool.enter(Priority.BULK, first)
        assert started.wait(PATIENCE)
        for name in ("bulk 1", "bulk 2"):
            pool.enter(Priority.BULK, partial(order.append, name))
        pool.enter(Priority.INTERACTIVE, partial(order.append, "quick"))
        held.set()
    assert order == ["quick", "bulk 1", "bulk 2"]


def test_a_pool_that_was_shut_down_takes_no_task() -> None:
    pool = PriorityPool(1)
    pool.shutdown()
    with pytest.raises(NotReady):
        pool.enter(Priority.BULK, lambda: None)


def keep(job: Entry) -> bool:
    job.taken = True
    return True


def test_the_oldest_job_is_joined_by_those_nearest_to_it_in_cost() -> None:
    line = Queue()
    for number, length in enumerate([20, 26, 14, 21, 19]):
        line.put(Entry(text_features(number).row, length, (Priority.BULK, bytes([number]))))
    batch = line.pick(3, 1000, 50, keep)
    assert [job.cost for job in batch] == [20, 21, 19]


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=30),
    gone=st.lists(st.booleans(), min_size=1, max_size=30),
    limit=st.integers(1, 8),
    max_cost=st.integers(1, 200),
    padding=st.integers(0, 60),
)
def test_a_line_gives_every_job_once_and_keeps_to_its_limits(
    lengths: list[int], gone: list[bool], limit: int, max_cost: int, padding: int
) -> None:
    line, wanted = Queue(), []
    for number, length in enumerate(lengths):
        job = Entry(text_features(*[number] * length).row, length, (Priority.BULK, bytes([number])))
        line.put(job)
        if not gone[number % len(gone)]:
            wanted.append(job)

    def take(job: Entry) -> bool:
        assert not job.taken
        job.taken = True
        return any(job is each for each in wanted)

    assert line.count == len(lengths)
    left = list(wanted)
    while batch := line.pick(limit, max_cost, padding, take):
        assert batch[0] is left[0]
        longest, total = max(job.cost for job in batch), sum(job.cost for job in batch)
        assert len(batch) <= limit
        assert len(batch) == 1 or len(batch) * longest <= max_cost
        assert len(batch) * longest - total <= padding
        left = [job for job in left if not any(job is each for each in batch)]
    assert not left
    assert line.count == 0
    assert not list(line)
