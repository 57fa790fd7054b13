"""The memory of images that are being decoded: shared fairly, within the budget."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.errors import InvalidInput, TooLarge
from multimodal_embedding_serving.media.budget import DecodeBudget, Reserve
from multimodal_embedding_serving.media.image import ImageLimits, ImageSource, decode_rgb
from multimodal_embedding_serving.settings import IMAGE_FORMATS
from tests.media.processes import PATIENCE, eventually
from tests.media_files import IMAGE_KINDS, photo, write_image, write_oriented

LIMITS = ImageLimits(max_bytes=1 << 25, max_pixels=64 * 10**6, formats=tuple(IMAGE_FORMATS))


class Holder:
    """A thread that holds a share until it is released."""

    def __init__(self, budget: DecodeBudget, size: int, pool: ThreadPoolExecutor) -> None:
        self.has, self._enough = threading.Event(), threading.Event()
        self.done: Future[None] = pool.submit(self._hold, budget, size)

    def _hold(self, budget: DecodeBudget, size: int) -> None:
        with budget.share() as reserve:
            reserve(size)
            self.has.set()
            assert self._enough.wait(PATIENCE)

    def release(self) -> None:
        self._enough.set()
        self.done.result(PATIENCE)


def test_who_does_not_fit_waits_until_there_is_room() -> None:
    budget = DecodeBudget(100)
    with ThreadPoolExecutor(4) as pool:
        first, second = Holder(budget, 60, pool), Holder(budget, 40, pool)
        assert first.has.wait(PATIENCE)
        assert second.has.wait(PATIENCE)
        third = Holder(budget, 50, pool)
        assert eventually(lambda: budget.waiting == 1)
        assert not third.has.is_set()
        second.release()
        assert not third.has.is_set(), "40 are free, and 50 are needed"
        first.release()
        assert third.has.wait(PATIENCE)
        third.release()
    assert budget.left == 100


def test_small_images_do_not_overtake_a_large_one() -> None:
    budget = DecodeBudget(100)
    with ThreadPoolExecutor(4) as pool:
        first = Holder(budget, 60, pool)
        assert first.has.wait(PATIENCE)
        large = Holder(budget, 90, pool)
        assert eventually(lambda: budget.waiting == 1)
        small = Holder(budget, 10, pool)
        assert eventually(lambda: budget.waiting == 2)
        assert not small.has.is_set()
        first.release()
        assert large.has.wait(PATIENCE)
        assert small.has.wait(PATIENCE)
        large.release()
        small.release()


def test_more_than_the_whole_budget_is_a_413() -> None:
    budget = DecodeBudget(100)
    with budget.share() as reserve:
        reserve(100)
    with pytest.raises(TooLarge), budget.share() as reserve:
        reserve(101)
    assert budget.left == 100


def test_a_decoder_that_needs_more_than_the_budget_works_alone() -> None:
    budget = DecodeBudget(100)
    with budget.share() as reserve:
        reserve(60, scratch=300)
        assert budget.left == 0
    assert budget.left == 100


@pytest.mark.parametrize(
    ("kind", "scratch"),
    [("jpeg", 0), ("png", 0), ("jpeg_progressive", 6), ("webp", 12), ("jpeg2000", 16), ("avif", 6)],
)
def test_what_a_decoder_needs_for_itself_counts_too(kind: str, scratch: int) -> None:
    recorder = Recorder()
    decode_rgb(write_image(kind, photo(60, 40)), LIMITS, reserve=recorder)
    assert recorder.scratch == 60 * 40 * scratch


def test_nobody_asks_twice() -> None:
    budget = DecodeBudget(100)
    with budget.share() as reserve:
        reserve(10)
        with pytest.raises(RuntimeError):
            reserve(10)
    assert budget.left == 100


@given(sizes=st.lists(st.integers(0, 100), min_size=1, max_size=60))
def test_everyone_is_served_and_the_budget_is_never_exceeded(sizes: list[int]) -> None:
    budget, lowest = DecodeBudget(100), []

    def hold(size: int) -> None:
        with budget.share() as reserve:
            reserve(size)
            lowest.append(budget.left)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(hold, size) for size in sizes]:
            done.result(PATIENCE)
    assert len(lowest) == len(sizes)
    assert min(lowest) >= 0
    assert budget.left == 100


class Recorder:
    """Records what is reserved."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.scratch = 0

    def __call__(self, size: int, scratch: int = 0) -> None:
        self.sizes.append(size)
        self.scratch += scratch


def reserved(source: ImageSource, min_side: int = 0, copied: bool = False) -> list[int]:
    recorder = Recorder()
    decode_rgb(source, LIMITS, min_side=min_side, copied=copied, reserve=recorder)
    return recorder.sizes


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_every_kind_of_image_asks_once_for_its_size(kind: str) -> None:
    assert reserved(write_image(kind, photo(60, 40))) in ([60 * 40 * 4], [60 * 40 * 8])


@pytest.mark.parametrize(
    ("source", "each"),
    [
        (write_image("jpeg", photo(60, 40)), 4),
        (write_image("png", photo(60, 40)), 4),
        (write_image("png_rgba", photo(60, 40)), 8),
        (write_image("png_16", photo(60, 40)), 8),
        (write_oriented(photo(60, 40), 6), 8),
        (photo(60, 40), 4),
        (np.zeros((40, 60, 3), np.uint8), 4),
        (np.zeros((40, 60), np.uint8), 8),
    ],
)
def test_an_image_that_is_turned_or_converted_counts_twice(source: ImageSource, each: int) -> None:
    assert reserved(source) == [60 * 40 * each]


@pytest.mark.parametrize(
    "source", [write_image("jpeg", photo(60, 40)), photo(60, 40), np.zeros((40, 60, 3), np.uint8)]
)
def test_the_copy_that_a_caller_makes_counts_too(source: ImageSource) -> None:
    assert reserved(source, copied=True) == [60 * 40 * 8]


def test_a_jpeg_that_is_scaled_down_counts_as_that() -> None:
    assert reserved(write_image("jpeg", photo(800, 640)), min_side=80) == [200 * 160 * 4]


def error_of(reserve: Reserve, source: bytes) -> type[Exception]:
    with pytest.raises((TooLarge, InvalidInput)) as error:
        decode_rgb(source, LIMITS, reserve=reserve)
    return error.type


def test_an_image_is_not_decoded_before_its_share_is_granted() -> None:
    torn = write_image("png", photo(60, 40))[:-200]
    budget = DecodeBudget(100)
    with budget.share() as reserve:
        assert error_of(reserve, torn) is TooLarge, "its bytes would be an InvalidInput"
    with DecodeBudget(1 << 20).share() as reserve:
        assert error_of(reserve, torn) is InvalidInput


def test_the_default_limits_fit_the_budget() -> None:
    budget = DecodeBudget(512 << 20)
    with budget.share() as reserve:
        reserve(LIMITS.max_pixels * 8)
    assert budget.left == budget.limit
