"""How long requests wait at some replicas: a simulation that knows only what was measured.

A replica is what closed loops say of it: with k callers there are always k requests in it, and it
answers `rates[k]` a second. That is the flow-equivalent server of a queueing network (Chandy,
Herzog & Woo, 1975): whatever happens inside, batching, two cores, HTTP, is in that curve. Here
requests come at random (Poisson) instead; the oldest of them are worked at, as many as the replica
can use (beyond that number its rate grows no more), and each gets an equal share of the rate.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from benchmarks.figures import percentile

Routing = Literal["random", "shorter of two"]
"""How a Kubernetes Service, and how Ray Serve, chooses a replica."""

FULL = 0.98
"""Of the highest rate: a replica that answers so many is used as well as it can be."""
REQUESTS = 10_000
WARM_UP = 0.1
"""Share of the requests that find the queues still filling."""


@dataclass(frozen=True)
class Curve:
    """Answers a second of one replica that holds k requests, for some k from 1 on."""

    rates: Mapping[int, float]

    @property
    def best(self) -> float:
        return max(self.rates.values())

    @property
    def width(self) -> int:
        """The least number of requests that gets the best out of a replica."""
        return min(k for k, rate in self.rates.items() if rate >= FULL * self.best)

    def rate(self, held: int) -> float:
        """Between what was measured, a straight line."""
        known = sorted((k, rate) for k, rate in self.rates.items() if k <= self.width)
        if held >= known[-1][0]:
            return self.best
        for (k, rate), (after, then) in pairwise(known):
            if k <= held <= after:
                return rate + (then - rate) * (held - k) / (after - k)
        return known[0][1]


@dataclass
class Replica:
    """Requests in the order in which they came."""

    curve: Curve
    clock: float = 0.0
    waiting: deque[float] = field(default_factory=deque)
    """When each came that is not worked at yet."""
    active: list[list[float]] = field(default_factory=list)
    """[when it came, the share of its work that is left] of each that is worked at."""

    @property
    def held(self) -> int:
        return len(self.waiting) + len(self.active)

    def run(self, until: float, done: Callable[[float, float], None]) -> None:
        """Work up to a moment; `done` hears when each answered request came, and when it ended."""
        while self.active:
            pace = self.curve.rate(self.held) / len(self.active)
            least = min(left for _, left in self.active)
            ended = self.clock + least / pace
            passed = (min(ended, until) - self.clock) * pace
            self.clock = min(ended, until)
            if ended > until:
                for request in self.active:
                    request[1] -= passed
                return
            over = [request for request in self.active if request[1] <= least + 1e-12]
            self.active = [
                [came, left - least] for came, left in self.active if left > least + 1e-12
            ]
            for came, _ in over:
                done(came, self.clock)
            self._fill()
        self.clock = until

    def take(self, now: float) -> None:
        self.waiting.append(now)
        self._fill()

    def _fill(self) -> None:
        while self.waiting and len(self.active) < self.curve.width:
            self.active.append([self.waiting.popleft(), 1.0])


def simulate(
    curve: Curve,
    rate: float,
    *,
    replicas: int = 1,
    routing: Routing = "random",
    requests: int = REQUESTS,
    seed: int = 0,
) -> list[float]:
    """Seconds that each request takes, in order of coming, once the queues have filled."""
    chance = random.Random(seed)
    places = [Replica(curve) for _ in range(replicas)]
    taken: list[tuple[float, float]] = []
    now = 0.0

    def done(came: float, ended: float) -> None:
        taken.append((came, ended - came))

    for _ in range(requests):
        now += chance.expovariate(rate)
        if routing == "random" or replicas == 1:
            chosen = chance.choice(places)
            chosen.run(now, done)
        else:
            pair = chance.sample(places, 2)
            for each in pair:
                each.run(now, done)
            chosen = min(pair, key=lambda each: each.held)
        chosen.take(now)
    for each in places:
        each.run(math.inf, done)
    taken.sort()
    return [latency for _, latency in taken[int(WARM_UP * requests) :]]


def replicas_for(curve: Curve, rate: float, p99: float, routing: Routing) -> int | None:
    """The fewest replicas that hold a p99 in seconds; None where one alone is not quick enough."""
    if 1 / curve.rate(1) > p99:
        return None
    count = max(1, math.ceil(rate / curve.best))
    while True:
        if rate < count * curve.best:
            found = simulate(curve, rate, replicas=count, routing=routing)
            if percentile(found, 99) <= p99:
                return count
        count += max(1, count // 20)
