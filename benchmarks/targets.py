"""The targets as ratios of figures from one run, and what is said where one is missed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Literal

from benchmarks.figures import Results

GRAPH_OF = "image"
"""The case of benchmark_app that stands behind every JPEG."""
BULK_ITEMS, BULK_LANES = 32, 2
"""The requests by which served texts are held against benchmark_app: items, and callers."""
LANES = "lanes"
LATENCY = "latency"
"""The pair of a single text's latency."""


def many(case: str) -> str:
    """The pair of requests of many texts."""
    return f"{case}, many"


@dataclass(frozen=True)
class Target:
    name: str
    asked: str
    """As a human reads it."""
    found: float | None
    """None: not measured in this run."""
    bound: float
    better: Literal["more", "less"]
    unit: str = ""
    key: str = ""
    """The profile that belongs to it."""

    @property
    def met(self) -> bool | None:
        if self.found is None:
            return None
        return self.found >= self.bound if self.better == "more" else self.found <= self.bound


def ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def targets(results: Results) -> list[Target]:
    return [
        *images_over_limit(results),
        *texts_over_graph(results),
        *single_texts(results),
        *images_over_peers(results),
        *latency_over_graph(results),
        *interactive(results),
        *start(results),
        *videos(results),
    ]


def images_over_limit(results: Results) -> Iterator[Target]:
    for case in jpegs(results):
        found = results.share(case)
        name = f"{case}: served images/s over the limit"
        yield Target(name, ">= 0.90", found, 0.9, "more", key=case)


def texts_over_graph(results: Results) -> Iterator[Target]:
    """Requests of many texts against the graph at the same length and batch."""
    for case in ("text, 8 tokens", "text, 77 tokens"):
        found = results.share(many(case))
        name = f"{case}, {BULK_ITEMS} per request: served texts/s over benchmark_app"
        yield Target(name, ">= 0.90", found, 0.9, "more", key=many(case))


def single_texts(results: Results) -> Iterator[Target]:
    """One text a request: the graph's CPU seconds over the server's, both of one text."""
    for case in ("text, 8 tokens", "text, 77 tokens"):
        cell = results.best("mmes", case)
        found = ratio(results.graph_cpu(case), cell.server_cpu if cell else None)
        name = f"{case}, one per request: the graph's share of the server's CPU seconds"
        yield Target(name, "reported, no limit", found, 0.0, "more", key=case)


def images_over_peers(results: Results) -> Iterator[Target]:
    """By equal precision 3x is asked of bf16 and up; where the CPU has no bf16, it is told so."""
    bounds = {"infinity": 3.0, "transformers": 4.0, "sentence-transformers": 3.0}
    for case in jpegs(results):
        ours = results.best("mmes", case)
        for peer, bound in bounds.items():
            theirs = results.best(peer, case)
            found = ratio(ours.rate if ours else None, theirs.rate if theirs else None)
            name = f"{case}: images/s over {peer}"
            yield Target(name, f">= {bound:g}", found, bound, "more", "x", key=case)


def latency_over_graph(results: Results) -> Iterator[Target]:
    found = results.excess(LATENCY)
    over = None if found is None else found * 1000
    name = "text, 8 tokens: p50 with one client minus the graph's median"
    yield Target(name, "< 2 ms", over, 2.0, "less", " ms", key=LATENCY)


def interactive(results: Results) -> Iterator[Target]:
    for each in results.lanes:
        found = ratio(each.busy[2], each.idle[2])
        name = f"p99 of a single text during {each.bulk}, over its idle p99"
        yield Target(name, "<= 3", found, 3.0, "less", "x", key=LANES)


def start(results: Results) -> Iterator[Target]:
    ours = next((each for each in results.starts if each.system == "mmes"), None)
    first = ours.first if ours else None
    yield Target("process start to first vector, ViT-B/32", "<= 4 s", first, 4.0, "less", " s")
    size = ours.installed / 1e6 if ours else None
    yield Target("site-packages of a serving install", "<= 500 MB", size, 500.0, "less", " MB")


def videos(results: Results) -> Iterator[Target]:
    for film in dict.fromkeys(each.film for each in results.videos):
        runs = [each for each in results.videos if each.film == film]
        found = median(each.seconds / (each.decode + each.graph) for each in runs)
        name = f"{film}: time over decode alone + {runs[0].frames} x graph"
        yield Target(name, "<= 1.15", found, 1.15, "less", "x", key="video")


def jpegs(results: Results) -> list[str]:
    """The picture cases of a run, in order."""
    return [each.case for each in results.preparations]
