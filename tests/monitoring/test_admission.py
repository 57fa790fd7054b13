"""Who may take more of what is bounded, and that everything taken comes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.errors import QueueFull
from multimodal_embedding_serving.monitoring.admission import Admission, QueueBound, SlotBound
from tests.fakes import FakeClock


def enter(bound: QueueBound, client: str, *counts: int, interactive: bool = False) -> list[bool]:
    """Whether each of the requests got its places."""
    served = []
    for count in counts:
        try:
            bound.enter(client, count, interactive=interactive)
            served.append(True)
        except QueueFull:
            served.append(False)
    return served


def test_an_eighth_of_the_queue_is_for_interactive_requests() -> None:
    bound = QueueBound(80)
    assert enter(bound, "a", 40, 30, 1) == [True, True, False]
    assert enter(bound, "a", 8, 2, 1, interactive=True) == [True, True, False]
    assert bound.held == 80


def test_a_client_below_its_share_is_served_by_a_full_queue_and_one_above_is_not() -> None:
    bound = QueueBound(80)
    assert enter(bound, "greedy", 70, 1) == [True, False]
    assert enter(bound, "b", 30, 30, 1) == [True, True, False]
    assert enter(bound, "c", 1, interactive=True) == [True]
    assert enter(bound, "greedy", 1, interactive=True) == [False]
    bound.leave("greedy", 50)  # 20 of 81: below a third of 80
    assert enter(bound, "greedy", 5) == [True]


def test_a_request_larger_than_the_queue_enters_when_it_is_alone() -> None:
    bound = QueueBound(4)
    assert enter(bound, "a", 9, 1) == [True, False]
    bound.leave("a", 9)
    assert enter(bound, "a", 1) == [True]


def test_retry_after_is_the_length_of_the_queue_over_the_rate_of_the_last_ten_seconds() -> None:
    clock = FakeClock()
    bound = QueueBound(100, clock)

    def retry_after() -> float:
        with pytest.raises(QueueFull) as caught:
            bound.enter("a", 100, interactive=False)
        return caught.value.retry_after

    bound.enter("a", 87, interactive=False)
    assert retry_after() == 1  # nothing is known yet
    clock.now += 10
    assert retry_after() == 60  # nothing was finished in ten seconds
    for _ in range(10):  # 2 a second
        clock.now += 1
        bound.leave("a", 2)
    assert bound.held == 67
    assert 30 <= retry_after() <= 34
    bound.leave("a", 60)
    assert retry_after() == 1
    clock.now += 10
    assert retry_after() == 60


def test_other_clients_are_known_for_ten_seconds() -> None:
    clock = FakeClock()
    bound = QueueBound(100, clock)
    bound.enter("a", 1, interactive=True)
    assert not bound.is_shared("a")
    assert bound.is_shared("b")
    bound.enter("b", 1, interactive=True)
    bound.leave("b", 1)
    clock.now += 9
    assert bound.is_shared("a")
    clock.now += 2
    assert not bound.is_shared("a")


def test_a_place_is_kept_for_the_next_item_and_given_back_when_there_is_none() -> None:
    bound = QueueBound(8)
    video = Admission(bound, "a", interactive=False)
    video.expect(6)
    with video.occupy(3):
        assert bound.held == 3
    assert enter(bound, "a", 5) == [False]  # 7 of 8 places, 3 of them are the video's
    with video.occupy(3):
        video.end()
        assert bound.held == 3
    assert bound.held == 0


@given(
    st.lists(st.integers(1, 9), max_size=12),
    st.integers(0, 40),
    st.integers(0, 12),
    st.booleans(),
    st.booleans(),
)
def test_an_admission_leaves_nothing_however_it_ends(
    slices: list[int], reserved: int, fails_at: int, end: bool, cancelled: bool
) -> None:
    """Items that fail, are cancelled or refused half way, in any order."""
    bound = QueueBound(24)
    admission = Admission(bound, "a", interactive=False)
    with suppress(QueueFull):
        admission.reserve(reserved)

    async def item(number: int, count: int) -> None:
        with admission.occupy(count):
            assert bound.held >= count
            await asyncio.sleep(0)
            if number == fails_at:
                raise ZeroDivisionError

    async def request() -> None:
        tasks = []
        for number, count in enumerate(slices):
            admission.expect(count)
            tasks.append(asyncio.create_task(item(number, count)))
        if end:
            admission.end()
        await asyncio.sleep(0)
        if cancelled:
            for task in tasks:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(request())
    admission.close()
    assert (bound.held, bound.clients) == (0, 0)


Steps = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["enter", "leave", "cancel"])), max_size=80
)


@given(Steps, st.integers(1, 6), st.integers(1, 6))
def test_slots_are_never_more_than_allowed_and_never_lost(
    steps: list[tuple[str, str]], limit: int, per_client: int
) -> None:
    """No slot is free while one waits that may have it, and all come back."""
    running: Counter[str] = Counter()

    async def hold(bound: SlotBound, client: str, release: asyncio.Event) -> None:
        async with bound.slot(client):
            running[client] += 1
            try:
                await release.wait()
            finally:
                running[client] -= 1

    async def run() -> None:
        bound = SlotBound(limit, per_client)
        tasks: list[tuple[str, asyncio.Task[None], asyncio.Event]] = []
        for client, step in steps:
            own = [each for each in tasks if each[0] == client and not each[1].done()]
            if step == "enter":
                release = asyncio.Event()
                tasks.append((client, asyncio.create_task(hold(bound, client, release)), release))
            elif own and step == "leave":
                own[0][2].set()
            elif own:
                own[-1][1].cancel()
            for _ in range(6):
                await asyncio.sleep(0)
            assert running.total() <= limit
            assert all(count <= per_client for count in running.values())
            waiting = Counter(client for client, task, _ in tasks if not task.done())
            waiting -= running
            idle = limit - running.total()
            assert not idle or all(running[each] == per_client for each in waiting if waiting[each])
        for _, task, _ in tasks:
            task.cancel()
        await asyncio.gather(*(task for _, task, _ in tasks), return_exceptions=True)
        assert (bound.held, bound.waiting, bound.clients) == (0, 0, 0)

    asyncio.run(run())


async def test_a_clients_fetches_keep_their_order_and_another_clients_do_not_wait_behind() -> None:
    bound, order = SlotBound(4, 2), list[str]()
    release = asyncio.Event()

    async def fetch(client: str, name: str) -> None:
        async with bound.slot(client):
            order.append(name)
            await release.wait()

    tasks = [asyncio.create_task(fetch("greedy", f"g{n}")) for n in range(6)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(fetch("b", "b0"))]
    await asyncio.sleep(0)
    assert order == ["g0", "g1", "b0"]
    assert (bound.held, bound.waiting, bound.clients) == (3, 4, 2)
    release.set()
    await asyncio.gather(*tasks)
    assert order == ["g0", "g1", "b0", "g2", "g3", "g4", "g5"]


async def test_a_free_slot_goes_to_a_client_below_its_share_first() -> None:
    bound, order = SlotBound(6, 3), list[str]()

    async def fetch(name: str, release: asyncio.Event) -> None:
        async with bound.slot(name[0]):
            order.append(name)
            await release.wait()

    names = ["a0", "a1", "a2", "b0", "b1", "b2", "a3", "c0"]  # a and b hold all
    ends = [asyncio.Event() for _ in names]
    async with asyncio.TaskGroup() as tasks:
        for name, end in zip(names, ends, strict=True):
            tasks.create_task(fetch(name, end))
        while bound.waiting < 2:  # noqa: ASYNC110  # no event tells of it
            await asyncio.sleep(0)
        for end in ends:
            end.set()
    assert order == [*names[:6], "c0", "a3"]
    assert bound.held == 0


def test_slots_are_shared_by_several_event_loops() -> None:
    bound = SlotBound(1)
    done: list[int] = []

    async def use(number: int) -> None:
        for _ in range(20):
            async with bound.slot("a"):
                await asyncio.sleep(0)
                assert bound.held == 1
        done.append(number)

    async def several() -> None:
        await asyncio.gather(*(asyncio.to_thread(asyncio.run, use(n)) for n in range(4)))

    asyncio.run(several())
    assert sorted(done) == [0, 1, 2, 3]
    assert (bound.held, bound.waiting) == (0, 0)
