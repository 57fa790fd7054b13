"""`make scaling`: what docs/scaling.md counts with, measured on this machine -> docs/scaling.json.

Closed loops give the curve of one replica; an open loop at random times, at 70 % of its best rate,
is what the simulation is held against. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.checkpoints import clip_checkpoint
from benchmarks.figures import percentile
from benchmarks.inputs import SIZES, pictures, sentences
from benchmarks.load import (
    Request,
    closed_loop,
    first_answer,
    image_requests,
    open_loop,
    text_requests,
)
from benchmarks.machine import describe
from benchmarks.measure import WARM_UP, run
from benchmarks.places import CACHE, ROOT
from benchmarks.plan import SHORT, jpeg_case, text_case
from benchmarks.processes import Server, peak_memory, serving
from benchmarks.queueing import Curve, Routing, replicas_for, simulate
from benchmarks.systems import OURS
from multimodal_embedding_serving.bulk.items import Item
from multimodal_embedding_serving.bulk.job import Options
from multimodal_embedding_serving.bulk.job import run as run_job
from multimodal_embedding_serving.bulk.listing import Listing
from multimodal_embedding_serving.bulk.models import Identity, VideoResult
from multimodal_embedding_serving.bulk.output import FileOutput
from multimodal_embedding_serving.types import Vector, Vectors

OUT = ROOT / "docs" / "scaling.json"
SECONDS, POINT_SECONDS = 4.0, 40.0
CALLERS = (1, 2, 3, 4, 8, 16)
LOAD = 0.7
ROUTINGS: tuple[Routing, ...] = ("random", "shorter of two")
WANTED = {"text": ((10, 100, 1000), 0.1), "image": ((1, 10, 100), 1.0)}
"""Requests a second, and the p99 in seconds, that replicas are counted for."""
ROWS = 20_000


def curve_of(server: Server, requests: Sequence[Request]) -> dict[int, float]:
    """Answers a second, by how many requests are held at a time."""
    found = {}
    for callers in CALLERS:
        run(closed_loop(server, requests, callers, WARM_UP))
        trace = run(closed_loop(server, requests, callers, SECONDS))
        found[callers] = len(trace.latencies) / trace.seconds
        print(f"  {callers:2} held: {found[callers]:.1f}/s", flush=True)
    return found


def point_of(server: Server, requests: Sequence[Request], curve: Curve) -> dict[str, float]:
    """A measured load and the simulation of the same one, in seconds."""
    rate = LOAD * curve.best
    trace = run(open_loop(server, requests, rate, POINT_SECONDS, seed=1))
    simulated = simulate(curve, rate, requests=20 * len(trace.latencies))
    return {
        "rate": rate,
        "requests": len(trace.latencies),
        "p50": percentile(trace.latencies, 50),
        "p99": percentile(trace.latencies, 99),
        "simulated_p50": percentile(simulated, 50),
        "simulated_p99": percentile(simulated, 99),
    }


def counted(curve: Curve, kind: str) -> list[dict[str, Any]]:
    """How many replicas hold the p99 at each rate."""
    rates, p99 = WANTED[kind]
    return [
        {"rate": rate, "p99": p99}
        | {routing: replicas_for(curve, rate, p99, routing) for routing in ROUTINGS}
        for rate in rates
    ]


class Instant:
    """A model that takes no time: what is measured is everything else of a bulk job."""

    identity = Identity("Fake/instant", "f", 512, ("text", "image"))
    parallel = 64
    _row: Vector = np.full(512, 512**-0.5, np.float32)

    async def texts(self, texts: Sequence[str]) -> Vectors:
        return np.tile(self._row, (len(texts), 1))

    async def query(self, text: str) -> Vector:
        return self._row

    async def image(self, source: object) -> Vector:
        return self._row

    async def video(self, source: object) -> VideoResult:
        raise AssertionError("no video is listed")

    async def aclose(self) -> None: ...


def items(count: int) -> Iterator[Item]:
    for number in range(count):
        path = f"/data/photos/2026/{number // 1000:04}/IMG_{number:07}.jpg"
        yield Item(path, "image", path, f"{number}:{number}")


def storage() -> dict[str, float]:
    """Bytes of a row and of its mark, and how fast rows are kept and files are listed."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        for dtype in ("f32", "f16"):
            out = Path(place, f"{dtype}.parquet")
            begun = time.perf_counter()
            asyncio.run(run_job(items(ROWS), Instant(), FileOutput(out), Options(dtype=dtype)))
            found["rows_per_second"] = ROWS / (time.perf_counter() - begun)
            found[f"row_bytes_{dtype}"] = out.stat().st_size / ROWS
        ledger = out.with_name(out.name + ".state") / "ledger.sqlite"
        found["ledger_bytes"] = ledger.stat().st_size / ROWS
        folder = Path(place, "files")
        for number in range(ROWS):
            path = folder / f"{number // 1000:04}" / f"IMG_{number:07}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        begun = time.perf_counter()
        listed = sum(1 for _ in Listing((str(folder),)))
        found["listed_per_second"] = listed / (time.perf_counter() - begun)
    return found


def main() -> None:
    OURS.prepare()
    CACHE.mkdir(exist_ok=True)
    model = clip_checkpoint()
    tokenizer = model / "tokenizer.json"
    loads = {
        "text": (text_case(SHORT), text_requests(sentences(tokenizer, SHORT))),
        "image": (jpeg_case(SIZES[0]), image_requests(pictures(SIZES[0], 64))),
    }
    many = text_requests(sentences(tokenizer, SHORT), 32)
    found: dict[str, Any] = {"machine": describe(), "model": "CLIP/clip-vit-b-32", "loads": {}}
    found["storage"] = storage()
    with serving(OURS, model) as server:
        run(first_answer(server, loads["text"][1][0]))
        for kind, (name, requests) in loads.items():
            print(f"{name}, one a request", flush=True)
            curve = Curve(curve_of(server, requests))
            found["loads"][kind] = {
                "name": name,
                "rates": curve.rates,
                "best": curve.best,
                "point": point_of(server, requests, curve),
                "replicas": counted(curve, kind),
            }
            print(f"  {found['loads'][kind]['point']}", flush=True)
        trace = run(closed_loop(server, many, 8, SECONDS))
        found["loads"]["text"]["bulk"] = trace.items / trace.seconds
        found["loads"]["image"]["bulk"] = found["loads"]["image"]["best"]
        found["memory"] = peak_memory(server.pid)
    OUT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(f"written: {OUT.relative_to(ROOT)}; `make docs` renders it")


if __name__ == "__main__":
    main()
