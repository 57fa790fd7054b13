"""What is served and its limit, one right after the other, some times over.

A machine that others share computes half as fast again in one minute as in the next, so figures
that lie minutes apart make no ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import GraphRate, Pair, Results, VideoRun
from benchmarks.inputs import Film
from benchmarks.limit import GraphCase, Hint, NoFigure, benchmark_app, decoding, preparation
from benchmarks.load import Request
from benchmarks.measure import load_cell, time_video
from benchmarks.processes import Server
from benchmarks.targets import BULK_ITEMS, BULK_LANES, GRAPH_OF, LATENCY, many
from multimodal_embedding_serving.bundles.bundle import Bundle

CALLERS = 16
"""Of the pictures: while a batch of 8 is in the graph the next one is decoded."""


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
        """benchmark_app again, by the setting that was the fastest when all were tried."""
        tried = [
            each
            for each in self.results.graphs
            if each.case == name and batch in (None, each.batch) and hint in (None, each.hint)
        ]
        if not tried:
            raise NoFigure(f"{name}: nothing was measured before")
        best = max(tried, key=lambda each: each.rate)
        graph = self.graphs[name]
        return benchmark_app(graph, best.batch, best.hint, self.app_seconds, self.precision)

    def pictures(self, case: str, requests: Sequence[Request], some: Sequence[Path]) -> None:
        cell = load_cell(self.server, case, requests, CALLERS, self.seconds)
        graph, alone = self.app(GRAPH_OF), preparation(case, some, self.bundle)
        self._keep(case, cell.rate, self.results.limit_of(alone, graph.cpu))

    def texts(self, case: str, requests: Sequence[Request]) -> None:
        cell = load_cell(self.server, case, requests, BULK_LANES, self.seconds)
        self._keep(many(case), cell.rate, self.app(case, batch=BULK_ITEMS).rate)

    def latency(self, case: str, requests: Sequence[Request]) -> None:
        cell = load_cell(self.server, case, requests, 1, self.seconds)
        self._keep(LATENCY, cell.p50, self.app(case, batch=1, hint="latency").median)

    def video(self, film: Film) -> None:
        seconds, cpu = time_video(self.server, film)
        frames, decode = decoding(film, 1)
        graph = frames / self.app(GRAPH_OF).rate
        told = f"{decode:.2f} + {graph:.2f} s of decoding and graph alone"
        print(f"  {film.name}: {seconds:.2f} s, {told}", flush=True)
        self.results.videos.append(
            VideoRun(
                film=film.name,
                frames=frames,
                seconds=seconds,
                decode=decode,
                graph=graph,
                server_cpu=cpu,
            )
        )

    def _keep(self, case: str, served: float, limit: float) -> None:
        print(f"  {case}: {served:.4g} beside {limit:.4g}", flush=True)
        self.results.pairs.append(Pair(case=case, served=served, limit=limit))
