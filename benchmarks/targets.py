"""The targets, as ratios of measurements from one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Literal

from benchmarks.figures import Results

GRAPH_OF = "image"
"""The case of benchmark_app for the image graph, which every JPEG case uses."""
BULK_ITEMS, BULK_CALLERS = 32, 2
"""Items per request, and callers, of the loads that compare texts with benchmark_app."""
MIXED_LOAD = "mixed load"
LATENCY = "latency"
"""The case of the pair that compares the latency of a single text."""


def many(case: str) -> str:
    """The case of the pair that compares requests with many texts."""
    return f"{case}, many"


@dataclass(frozen=True)
class Target:
    name: str
    goal: str
    """The bound as text."""
    result: float | None
    """None: not measured in this run."""
    bound: float
    better: Literal["more", "less"]
    unit: str = ""
    key: str = ""
    """The key of its profile."""

    @property
    def met(self) -> bool | None:
        if self.result is None:
            return None
        return self.result >= self.bound if self.better == "more" else self.result <= self.bound


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
        value = results.share(case)
        name = f"{case}: served images/s over the limit"
        yield Target(name, ">= 0.90", value, 0.9, "more", key=case)


def texts_over_graph(results: Results) -> Iterator[Target]:
    """Requests of many texts, compared with the graph at the same length and batch size."""
    for case in ("text, 8 tokens", "text, 77 tokens"):
        value = results.share(many(case))
        name = f"{case}, {BULK_ITEMS} per request: served texts/s over benchmark_app"
        yield Target(name, ">= 0.90", value, 0.9, "more", key=many(case))


def single_texts(results: Results) -> Iterator[Target]:
    """One text per request: the CPU seconds of the graph over those of the server."""
    for case in ("text, 8 tokens", "text, 77 tokens"):
        cell = results.best("mmes", case)
        value = ratio(results.graph_cpu(case), cell.server_cpu if cell else None)
        name = f"{case}, one per request: the graph's share of the server's CPU seconds"
        yield Target(name, "reported, no limit", value, 0.0, "more", key=case)


def images_over_peers(results: Results) -> Iterator[Target]:
    """The bounds were set for CPUs with bf16; on others, the report says so."""
    bounds = {"infinity": 3.0, "transformers": 4.0, "sentence-transformers": 3.0}
    for case in jpegs(results):
        ours = results.best("mmes", case)
        for peer, bound in bounds.items():
            theirs = results.best(peer, case)
            value = ratio(ours.rate if ours else None, theirs.rate if theirs else None)
            name = f"{case}: images/s over {peer}"
            yield Target(name, f">= {bound:g}", value, bound, "more", "x", key=case)


def latency_over_graph(results: Results) -> Iterator[Target]:
    seconds = results.excess(LATENCY)
    value = None if seconds is None else seconds * 1000
    name = "text, 8 tokens: p50 with one client minus the graph's median"
    yield Target(name, "< 2 ms", value, 2.0, "less", " ms", key=LATENCY)


def interactive(results: Results) -> Iterator[Target]:
    for each in results.mixed_loads:
        value = ratio(each.busy[2], each.idle[2])
        name = f"p99 of a single text during {each.bulk}, over its idle p99"
        yield Target(name, "<= 3", value, 3.0, "less", "x", key=MIXED_LOAD)


def start(results: Results) -> Iterator[Target]:
    ours = next((each for each in results.starts if each.system == "mmes"), None)
    seconds = ours.first if ours else None
    yield Target("process start to first vector, ViT-B/32", "<= 4 s", seconds, 4.0, "less", " s")
    size = ours.installed / 1e6 if ours else None
    yield Target("site-packages of a serving install", "<= 500 MB", size, 500.0, "less", " MB")


def videos(results: Results) -> Iterator[Target]:
    for video in dict.fromkeys(each.video for each in results.videos):
        runs = [each for each in results.videos if each.video == video]
        value = median(each.seconds / (each.decode + each.graph) for each in runs)
        name = f"{video}: time over decode alone + {runs[0].frames} x graph"
        yield Target(name, "<= 1.15", value, 1.15, "less", "x", key="video")


def jpegs(results: Results) -> list[str]:
    """The image cases of a run, in order."""
    return [each.case for each in results.preparations]
