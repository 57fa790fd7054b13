"""The results of a run, and the rules that turn them into ratios. Nothing here measures."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

PERCENTILES = (50, 95, 99)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` percent of the values do not exceed."""
    if not values:
        raise ValueError("no values")
    ranked = sorted(values)
    return ranked[max(0, math.ceil(share / 100 * len(ranked)) - 1)]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One system under one load. Times are in seconds, CPU in core seconds."""

    system: str
    case: str
    concurrency: int
    items: int
    """Per request."""
    requests: int
    rate: float
    """Items per second."""
    p50: float
    p95: float
    p99: float
    server_cpu: float
    """Per item."""
    client_cpu: float
    """Per item."""
    other_cores: float
    """Cores used by everything else on the machine."""


@dataclass(frozen=True, kw_only=True)
class GraphRate:
    """benchmark_app on one of our graphs. Rates are items per second."""

    graph: str
    case: str
    batch: int
    hint: Literal["throughput", "latency"]
    rate: float
    median: float
    """Latency of one call in seconds."""
    cpu: float
    """Core seconds per item."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """CPU seconds per item before the graph, on one thread."""

    case: str
    decode: float
    resize: float


@dataclass(frozen=True, kw_only=True)
class Start:
    system: str
    first: float | None
    """Seconds from the start of the process to its first vector, of a text."""
    peak_memory: int
    """Bytes, after all loads."""
    installed: int
    """Bytes."""
    versions: Mapping[str, str]
    about: str = ""
    cosine: float | None = None
    """The lowest cosine between its vectors and this service's: near 1 for the same model."""


@dataclass(frozen=True, kw_only=True)
class VideoRun:
    video: str
    frames: int
    seconds: float
    """For one request."""
    decode: float
    """Seconds to decode the same frames alone, on all cores, right afterwards."""
    graph: float
    """Seconds of the graph alone for as many frames, right afterwards."""
    server_cpu: float
    """CPU seconds for one request."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The service and its limit, measured back to back, in the same unit."""

    case: str
    served: float
    limit: float


@dataclass(frozen=True, kw_only=True)
class MixedLoad:
    """Latency in seconds of single texts sent at a fixed rate, alone and during a bulk job."""

    bulk: str
    idle: Sequence[float]
    busy: Sequence[float]
    """p50, p95, p99, as in `idle`."""
    bulk_rate: float
    """Items per second of the bulk job."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What a system can't serve, or what it failed at, and why."""

    system: str
    case: str
    reason: str


@dataclass(kw_only=True)
class Results:
    machine: Mapping[str, str]
    quick: bool
    model: Mapping[str, Any]
    """What the service reports about its model."""
    notes: list[str] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    graphs: list[GraphRate] = field(default_factory=list)
    preparations: list[Preparation] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    videos: list[VideoRun] = field(default_factory=list)
    mixed_loads: list[MixedLoad] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    profiles: dict[str, list[str]] = field(default_factory=dict)
    """Where the time goes, by target: lines of a py-spy profile."""
    seconds: float = 0.0

    @property
    def cores(self) -> int:
        return int(self.machine["cores"])

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        data = json.loads(path.read_text("utf-8"))
        kinds: Mapping[str, type[Any]] = {
            "cells": Cell,
            "graphs": GraphRate,
            "preparations": Preparation,
            "starts": Start,
            "pairs": Pair,
            "videos": VideoRun,
            "mixed_loads": MixedLoad,
            "missing": Missing,
        }
        for name, kind in kinds.items():
            data[name] = [kind(**each) for each in data[name]]
        return cls(**data)

    # ── looking up ──

    def cell(self, system: str, case: str, concurrency: int, items: int = 1) -> Cell | None:
        key = (system, case, concurrency, items)
        for each in self.cells:
            if (each.system, each.case, each.concurrency, each.items) == key:
                return each
        return None

    def best(self, system: str, case: str) -> Cell | None:
        """The load with the highest rate of a system, in requests of one item."""
        cells = [c for c in self.cells if (c.system, c.case, c.items) == (system, case, 1)]
        return max(cells, key=lambda cell: cell.rate, default=None)

    def share(self, case: str) -> float | None:
        """The median of service / limit."""
        ratios = [each.served / each.limit for each in self.pairs if each.case == case]
        return median(ratios) if ratios else None

    def excess(self, case: str) -> float | None:
        """The median of service - limit."""
        differences = [each.served - each.limit for each in self.pairs if each.case == case]
        return median(differences) if differences else None

    def graph_rate(self, case: str, batch: int | None = None) -> float | None:
        """The highest rate of benchmark_app, at one batch size or at any."""
        rates = [
            each.rate
            for each in self.graphs
            if each.case == case and (batch is None or each.batch == batch)
        ]
        return max(rates, default=None)

    def graph_cpu(self, case: str) -> float | None:
        """Core seconds per item, by the setting that takes the fewest."""
        return min((each.cpu for each in self.graphs if each.case == case), default=None)

    def image_limit(self, case: str, graph: str) -> float | None:
        """The limit for images, by the setting whose graph takes the least CPU."""
        before = next((each for each in self.preparations if each.case == case), None)
        graph_cpu = self.graph_cpu(graph)
        if before is None or graph_cpu is None:
            return None
        return self.limit_of(before, graph_cpu)

    def limit_of(self, before: Preparation, graph_cpu: float) -> float:
        """Items per second = cores / (decode + resize + graph), all in CPU seconds."""
        return self.cores / (before.decode + before.resize + graph_cpu)
