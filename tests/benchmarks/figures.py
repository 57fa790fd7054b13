"""Made-up results of a run, with something to divide for every rule."""

from __future__ import annotations

from typing import Any

from benchmarks.figures import (
    Cell,
    GraphRate,
    Missing,
    MixedLoad,
    Pair,
    Preparation,
    Results,
    Start,
    VideoRun,
)

JPEG, SHORT = "JPEG, 640x480", "text, 8 tokens"


def cell(system: str, case: str, **changes: Any) -> Cell:
    defaults: dict[str, Any] = {
        "concurrency": 8, "items": 1, "requests": 100, "rate": 30.0, "p50": 0.05, "p95": 0.08,
        "p99": 0.1, "server_cpu": 0.06, "client_cpu": 0.001, "other_cores": 0.0,
    }  # fmt: skip
    return Cell(system=system, case=case, **{**defaults, **changes})


def graph(case: str, rate: float, batch: int = 8, median: float = 0.02) -> GraphRate:
    return GraphRate(
        graph="image",
        case=case,
        batch=batch,
        hint="throughput",
        rate=rate,
        median=median,
        cpu=2 / rate,
    )


def results() -> Results:
    """Two cores; an image takes 10 + 10 + 40 core-ms: the limit is 33.3 per second."""
    return Results(
        machine={"processor": "a processor", "cores": "2"},
        quick=False,
        model={"name": "clip-vit-b-32", "inference": "f32"},
        cells=[
            cell("mmes", JPEG, concurrency=1, rate=20.0),
            cell("mmes", JPEG, rate=31.0),
            cell("infinity", JPEG, rate=10.0),
            cell("mmes", SHORT, concurrency=1, rate=100.0, p50=0.0085, server_cpu=0.0125),
        ],
        graphs=[
            graph("image", 50.0),
            graph("image", 40.0, batch=1),
            graph(SHORT, 200.0, batch=32),
            graph(SHORT, 120.0, batch=1, median=0.0075),
        ],
        preparations=[Preparation(case=JPEG, decode=0.01, resize=0.01)],
        starts=[
            Start(
                system="mmes", first=3.5, peak_memory=900_000_000, installed=450_000_000,
                versions={"openvino": "2026.4"}, about="this service",
            )
        ],
        pairs=[
            *(Pair(case=JPEG, served=rate, limit=33.0) for rate in (20.0, 31.0, 32.0)),
            Pair(case=f"{SHORT}, many", served=190.0, limit=200.0),
            *(Pair(case="latency", served=0.0085, limit=limit) for limit in (0.0075, 0.005, 0.008)),
        ],
        videos=[
            VideoRun(
                video="a video", frames=64, seconds=seconds, decode=1.0, graph=1.28, server_cpu=4.0
            )
            for seconds in (2.5, 2.4, 9.0)
        ],
        mixed_loads=[
            MixedLoad(
                bulk="a job", idle=[0.01, 0.015, 0.02], busy=[0.03, 0.06, 0.08], bulk_rate=60.0
            )
        ],
        missing=[Missing(system="infinity", case="video", reason="does not support video")],
        profiles={"mixed load": [" 50.0%  a place"], JPEG: [" 60.0%  another"]},
        seconds=1500.0,
    )  # fmt: skip
