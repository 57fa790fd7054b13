"""What was measured, and the rules by which it becomes ratios. Nothing here measures."""

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
    """One system under one load. Times in seconds, CPU in core seconds."""

    system: str
    case: str
    concurrency: int
    items: int
    """Of one request."""
    requests: int
    rate: float
    """Items a second."""
    p50: float
    p95: float
    p99: float
    server_cpu: float
    """Of one item."""
    client_cpu: float
    """Of one item."""
    other_cores: float
    """Cores that everything else on the machine took meanwhile."""


@dataclass(frozen=True, kw_only=True)
class GraphRate:
    """benchmark_app over one of our graphs. Items a second; median latency in seconds."""

    graph: str
    case: str
    batch: int
    hint: Literal["throughput", "latency"]
    rate: float
    median: float
    """Of one call, in seconds."""
    cpu: float
    """Core seconds of one item."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """CPU seconds of one item before its graph, on one thread."""

    case: str
    decode: float
    resize: float


@dataclass(frozen=True, kw_only=True)
class Start:
    system: str
    first: float | None
    """Seconds from the start of the process to its first vector: a text's."""
    peak_memory: int
    """Bytes, after all loads."""
    installed: int
    """Bytes."""
    versions: Mapping[str, str]
    about: str = ""
    cosine: float | None = None
    """The least cosine of its vectors to this service's: the same model, if it is near 1."""


@dataclass(frozen=True, kw_only=True)
class VideoRun:
    film: str
    frames: int
    seconds: float
    """Of one request."""
    decode: float
    """Seconds of decoding the same frames alone, on all cores, right after."""
    graph: float
    """Seconds of the graph alone for as many frames, right after."""
    server_cpu: float
    """CPU seconds of one request."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """What was served and its limit, measured one right after the other, in one unit."""

    case: str
    served: float
    limit: float


@dataclass(frozen=True, kw_only=True)
class Lanes:
    """A single text's latency by the clock, idle and beside a bulk job. Seconds."""

    bulk: str
    idle: Sequence[float]
    busy: Sequence[float]
    """p50, p95, p99 both."""
    bulk_rate: float
    """Items a second of the bulk job meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What a system can't serve, or failed at, and why."""

    system: str
    case: str
    reason: str


@dataclass(kw_only=True)
class Results:
    machine: Mapping[str, str]
    quick: bool
    model: Mapping[str, Any]
    """What the service says of its model."""
    notes: list[str] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    graphs: list[GraphRate] = field(default_factory=list)
    preparations: list[Preparation] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    videos: list[VideoRun] = field(default_factory=list)
    lanes: list[Lanes] = field(default_factory=list)
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
            "lanes": Lanes,
            "missing": Missing,
        }
        for name, kind in kinds.items():
            data[name] = [kind(**each) for each in data[name]]
        return cls(**data)

    # ── looking up ──

    def cell(self, system: str, case: str, concurrency: int, items: int = 1) -> Cell | None:
        wanted = (system, case, concurrency, items)
        for each in self.cells:
            if (each.system, each.case, each.concurrency, each.items) == wanted:
                return each
        return None

    def best(self, system: str, case: str) -> Cell | None:
        """The load under which a system gave most items a second, in requests of one item."""
        found = [c for c in self.cells if (c.system, c.case, c.items) == (system, case, 1)]
        return max(found, key=lambda cell: cell.rate, default=None)

    def share(self, case: str) -> float | None:
        """The median of what was served over its limit."""
        ratios = [each.served / each.limit for each in self.pairs if each.case == case]
        return median(ratios) if ratios else None

    def excess(self, case: str) -> float | None:
        """The median of what was served less its limit."""
        found = [each.served - each.limit for each in self.pairs if each.case == case]
        return median(found) if found else None

    def graph_rate(self, case: str, batch: int | None = None) -> float | None:
        """The most that benchmark_app got out of the graph, at one batch or at any."""
        rates = [
            each.rate
            for each in self.graphs
            if each.case == case and (batch is None or each.batch == batch)
        ]
        return max(rates, default=None)

    def graph_cpu(self, case: str) -> float | None:
        """Core seconds of one item, by the setting that takes least."""
        return min((each.cpu for each in self.graphs if each.case == case), default=None)

    def image_limit(self, case: str, graph: str) -> float | None:
        """Of pictures, by the setting whose graph takes least CPU."""
        prepared = next((each for each in self.preparations if each.case == case), None)
        computed = self.graph_cpu(graph)
        if prepared is None or computed is None:
            return None
        return self.limit_of(prepared, computed)

    def limit_of(self, prepared: Preparation, graph_cpu: float) -> float:
        """Items a second = cores / (decode + resize + graph), all of them CPU seconds."""
        return self.cores / (prepared.decode + prepared.resize + graph_cpu)
