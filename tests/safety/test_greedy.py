"""Honest clients beside each attack of `greedy`: statuses decide, latency is a figure."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.conftest import Figure
from tests.safety.greedy import ATTACKS, Greedy, Honest, Outcome, beside, server
from tests.serving import Running
from tests.slow_host import SlowHost, slow_host

SECONDS = 10.0


@pytest.fixture(scope="module")
def target() -> Iterator[tuple[Running, SlowHost]]:
    with server() as running:
        yield running


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="clients at addresses of 127.0.0.0/8")
@pytest.mark.parametrize("name", ATTACKS)
def test_honest_clients_are_served_beside_an_attack(
    target: tuple[Running, SlowHost], name: str, figure: Figure
) -> None:
    outcome = beside(name, *target, SECONDS)
    figure(f"greedy: {outcome.row(outcome.p99)}")
    assert not outcome.wrong()
    if name in ("16 clients with lists of 2,048 texts", "20 bodies of 60 MB"):
        assert outcome.greedy.statuses[429]
    if name == "8 lists of 2,048 slow URLs":
        assert target[1].most <= 64


def test_what_must_not_be_is_noticed() -> None:
    fine = Honest(Counter({200: 3}), [0.1] * 3)
    with slow_host() as slow:
        good = Outcome("x", fine, fine, fine, Greedy(0, slow))
        changes: list[dict[str, Any]] = [
            {"text": Honest(Counter({200: 3, 429: 1}))},
            {"image": Honest(Counter({0: 1}))},
            {"probes": Honest(Counter({503: 1}))},
            {"greedy": Greedy(0, slow, Counter({500: 1}))},
            {"greedy": Greedy(0, slow, retry_after=Counter({None: 1}))},
            {"greedy": Greedy(0, slow, retry_after=Counter({"0": 1}))},
        ]
        assert not good.wrong()
        for change in changes:
            assert len(replace(good, **change).wrong()) == 1
