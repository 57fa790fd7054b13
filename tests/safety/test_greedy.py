"""Honest clients beside each attack of `greedy`: statuses decide, latency is a figure."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

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
    if name in ("13 clients with lists of 2,048 texts", "20 bodies of 60 MB"):
        assert outcome.greedy.statuses[429]
    if name == "8 lists of 2,048 slow URLs":
        assert target[1].most <= 64


def test_what_must_not_be_is_noticed() -> None:
    with slow_host() as slow:
        good = Outcome(
            "x", *(Honest(Counter({200: 3}), [0.1] * 3) for _ in range(3)), Greedy(0, slow)
        )
        assert not good.wrong()
        for broken in (
            Outcome("x", Honest(Counter({200: 3, 429: 1})), good.image, good.probes, good.greedy),
            Outcome("x", good.text, Honest(Counter({0: 1})), good.probes, good.greedy),
            Outcome("x", good.text, good.image, Honest(Counter({503: 1})), good.greedy),
            Outcome("x", good.text, good.image, good.probes, Greedy(0, slow, Counter({500: 1}))),
            Outcome(
                "x",
                good.text,
                good.image,
                good.probes,
                Greedy(0, slow, Counter(), Counter({None: 1})),
            ),
            Outcome(
                "x",
                good.text,
                good.image,
                good.probes,
                Greedy(0, slow, Counter(), Counter({"0": 1})),
            ),
        ):
            assert len(broken.wrong()) == 1
