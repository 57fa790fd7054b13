"""Who may hold how much memory, and who makes way when it is used up."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.errors import QueueFull, TooLarge
from multimodal_embedding_serving.monitoring.request import MemoryQuota, RequestContext


class Evicted(RequestContext):
    """A request that notes its end."""

    def __init__(self, quota: MemoryQuota, client: str) -> None:
        super().__init__(quota, client=client)
        self.ended: QueueFull | None = None
        self.evict = self._end

    def _end(self, error: QueueFull) -> None:
        self.ended = error


def test_one_client_may_hold_half() -> None:
    quota = MemoryQuota(100)
    first, second, other = Evicted(quota, "a"), Evicted(quota, "a"), Evicted(quota, "b")
    first.reserve(30)
    second.reserve(20)
    with pytest.raises(QueueFull, match="EMBEDDING_MAX_PENDING_MB") as caught:
        second.reserve(1)
    assert caught.value.retry_after == 1
    other.reserve(50)
    first.release(5)
    second.reserve(5)
    with pytest.raises(TooLarge, match="half of EMBEDDING_MAX_PENDING_MB"):
        Evicted(quota, "c").reserve(51)
    for each in (first, second, other):
        each.close()
    assert (quota.used, quota.clients) == (0, 0)


def test_room_is_checked_without_being_taken() -> None:
    quota = MemoryQuota(100)
    first, second = Evicted(quota, "a"), Evicted(quota, "a")
    first.reserve(30)
    second.check(20)
    with pytest.raises(QueueFull):
        second.check(21)
    with pytest.raises(TooLarge):
        second.check(51)
    assert quota.used == 30


def test_the_latest_requests_of_who_holds_most_make_way_for_a_client_below_its_share() -> None:
    quota = MemoryQuota(120)
    greedy = [Evicted(quota, "a") for _ in range(3)] + [Evicted(quota, "b") for _ in range(3)]
    for each in greedy:
        each.reserve(20)
    honest = Evicted(quota, "c")
    honest.reserve(10)
    assert [each.ended is not None for each in greedy] == [False, False, True, False, False, False]
    assert (greedy[2].used, quota.used) == (0, 110)
    greedy[2].reserve(50)  # it is about to end: nothing is charged to it any more
    assert quota.used == 110
    honest.reserve(20)  # 30 of 130: below a third of 120
    assert [each.ended is not None for each in greedy[3:]] == [False, False, True]
    with pytest.raises(QueueFull):
        greedy[0].reserve(31)


def test_a_client_above_its_share_ends_nobody() -> None:
    quota = MemoryQuota(120)
    first, second, third = Evicted(quota, "a"), Evicted(quota, "b"), Evicted(quota, "c")
    first.reserve(60)
    second.reserve(50)
    third.reserve(10)
    with pytest.raises(QueueFull):
        second.reserve(1)
    assert first.ended is second.ended is third.ended is None


def test_a_request_whose_response_has_begun_does_not_make_way() -> None:
    quota = MemoryQuota(100)
    first, second = Evicted(quota, "a"), Evicted(quota, "b")
    first.reserve(50)
    second.reserve(50)
    first.evict = second.evict = None
    with pytest.raises(QueueFull):
        Evicted(quota, "c").reserve(1)


Steps = st.lists(
    st.tuples(
        st.integers(0, 7), st.sampled_from(["reserve", "release", "close"]), st.integers(0, 60)
    ),
    max_size=60,
)


@given(Steps)
def test_the_accounts_are_right_whatever_happens(steps: list[tuple[int, str, int]]) -> None:
    quota = MemoryQuota(100)
    requests = [Evicted(quota, "abcd"[number % 4]) for number in range(8)]
    for number, step, size in steps:
        with suppress(QueueFull, TooLarge):
            match step:
                case "reserve":
                    requests[number].reserve(size)
                case "release":
                    requests[number].release(size)
                case _:
                    requests[number].close()
        assert quota.used == sum(each.used for each in requests) <= 100
        for client in "abcd":
            held = sum(each.used for each in requests if each.client == client)
            assert 0 <= held <= 50
        assert all(each.used == 0 for each in requests if each.ended or each.closed)
    for each in requests:
        each.close()
    assert (quota.used, quota.clients, quota._requests) == (0, 0, {})


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=30))
def test_a_newcomer_always_gets_its_share(held: list[tuple[str, int]]) -> None:
    quota = MemoryQuota(100)
    for client, size in held:
        with suppress(QueueFull):
            Evicted(quota, client).reserve(size)
    newcomer = Evicted(quota, "honest")
    newcomer.reserve(min(50, 100 // (quota.clients + 1)))
    assert quota.used <= 100
