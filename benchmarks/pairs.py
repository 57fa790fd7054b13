"""Measure the service and its limit back to back, several times.

A shared machine may be half as fast again in one minute as in the next, so measurements that are
minutes apart can't be divided by each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import GraphRate, Pair, Results, VideoRun
from benchmarks.inputs import Video
from benchmarks.limit import (
    BenchmarkAppError,
    GraphCase,
    Hint,
    benchmark_app,
    decoding,
    preparation,
)
from benchmarks.load import Request
from benchmarks.measure import load_cell, time_video
from benchmarks.processes import Server
from benchmarks.targets import BULK_CALLERS, BULK_ITEMS, GRAPH_OF, LATENCY, many
from multimodal_embedding_serving.bundles.bundle import Bundle

CALLERS = 16
"""For images: while a batch of 8 is in the graph, the next one is decoded."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Measures pairs of one server and its graphs."""

    results: Results
    server: Server
    bundle: Bundle
    graphs: Mapping[str, GraphCase]
    precision: str
    seconds: float
    app_seconds: int

    def app(self, name: str, *, batch: int | None = None, hint: Hint | None = None) -> GraphRate:
        """Run benchmark_app again, with the setting that was the fastest of all."""
        earlier = [
            each
            for each in self.results.graphs
            if each.case == name and batch in (None, each.batch) and hint in (None, each.hint)
        ]
        if not earlier:
            raise BenchmarkAppError(f"{name}: has not been measured before")
        best = max(earlier, key=lambda each: each.rate)
        graph = self.graphs[name]
        return benchmark_app(graph, best.batch, best.hint, self.app_seconds, self.precision)

    def images(self, case: str, requests: Sequence[Request], paths: Sequence[Path]) -> None:
        cell = load_cell(self.server, case, requests, CALLERS, self.seconds)
        graph, alone = self.app(GRAPH_OF), preparation(case, paths, self.bundle)
        self._add(case, cell.rate, self.results.limit_of(alone, graph.cpu))

    def texts(self, case: str, requests: Sequence[Request]) -> None:
        cell = load_cell(self.server, case, requests, BULK_CALLERS, self.seconds)
        self._add(many(case), cell.rate, self.app(case, batch=BULK_ITEMS).rate)

    def latency(self, case: str, requests: Sequence[Request]) -> None:
        cell = load_cell(self.server, case, requests, 1, self.seconds)
        self._add(LATENCY, cell.p50, self.app(case, batch=1, hint="latency").median)

    def video(self, video: Video) -> None:
        seconds, cpu = time_video(self.server, video)
        frames, decode = decoding(video, 1)
        graph = frames / self.app(GRAPH_OF).rate
        parts = f"decoding alone {decode:.2f} s, graph alone {graph:.2f} s"
        print(f"  {video.name}: {seconds:.2f} s, {parts}", flush=True)
        self.results.videos.append(
            VideoRun(
                video=video.name,
                frames=frames,
                seconds=seconds,
                decode=decode,
                graph=graph,
                server_cpu=cpu,
            )
        )

    def _add(self, case: str, served: float, limit: float) -> None:
        print(f"  {case}: {served:.4g}, limit {limit:.4g}", flush=True)
        self.results.pairs.append(Pair(case=case, served=served, limit=limit))
