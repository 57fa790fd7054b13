"""The simulation against what queueing theory knows exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.figures import percentile
from benchmarks.queueing import Curve, replicas_for, simulate

ONE = Curve({1: 10.0, 2: 10.0, 8: 10.0})
"""Ten a second whatever is waiting: the M/D/1 queue."""
TWO = Curve({1: 5.0, 2: 10.0, 4: 10.0})
"""Two workers that need 0.2 s each."""


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_worker_waits_as_pollaczek_and_khinchine_say(load: float) -> None:
    found = np.mean(simulate(ONE, 10 * load, requests=30_000))
    expected = 0.1 + 0.1 * load / (2 * (1 - load))
    assert found == pytest.approx(expected, rel=0.07)


def test_two_workers_wait_less_than_one_twice_as_fast_and_need_longer_alone() -> None:
    one, two = simulate(ONE, 7.0), simulate(TWO, 7.0)
    assert min(two) == pytest.approx(0.2, rel=0.01)
    assert min(one) == pytest.approx(0.1, rel=0.01)
    assert np.mean(two) - 0.2 < np.mean(one) - 0.1


def test_a_curve_is_a_line_between_what_was_measured_and_flat_beyond() -> None:
    curve = Curve({1: 10.0, 4: 40.0, 8: 60.0, 16: 60.5, 64: 59.0})
    assert [curve.rate(k) for k in (1, 2, 4, 6, 8, 1000)] == [10, 20, 40, 50, 60.5, 60.5]
    assert curve.width == 8


def test_the_shorter_of_two_queues_is_better_than_any() -> None:
    blind = simulate(ONE, 70.0, replicas=10)
    seeing = simulate(ONE, 70.0, replicas=10, routing="shorter of two")
    assert percentile(seeing, 99) < 0.7 * percentile(blind, 99)


@settings(max_examples=25)
@given(
    rate=st.floats(0.5, 9.0),
    replicas=st.integers(1, 4),
    count=st.integers(1, 300),
    seed=st.integers(0, 9),
)
def test_every_request_is_answered_and_none_sooner_than_its_work_takes(
    rate: float, replicas: int, count: int, seed: int
) -> None:
    found = simulate(TWO, rate, replicas=replicas, requests=count, seed=seed)
    assert len(found) == count - int(0.1 * count)
    assert min(found) >= 0.2 - 1e-9


def test_replicas_are_as_few_as_hold_the_bound() -> None:
    count = replicas_for(ONE, 50.0, 0.5, "random")
    assert count is not None
    assert percentile(simulate(ONE, 50.0, replicas=count), 99) <= 0.5
    assert percentile(simulate(ONE, 50.0, replicas=count - 1), 99) > 0.5
    assert replicas_for(ONE, 50.0, 0.05, "random") is None
