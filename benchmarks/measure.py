"""Put loads on running systems and record the results."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
import uvloop

from benchmarks.figures import PERCENTILES, Cell, Missing, MixedLoad, Results, percentile
from benchmarks.inputs import Video
from benchmarks.load import (
    BadResponse,
    Request,
    Trace,
    ask_once,
    closed_loop,
    open_loop,
    render,
    vectors,
)
from benchmarks.processes import Server, ServerEnded, cpu_seconds
from multimodal_embedding_serving.types import Vectors

FAILURES = (ServerEnded, BadResponse, OSError, TimeoutError)
WARM_UP = 1.0
"""Seconds of load before each measurement."""
T = TypeVar("T")

MIXED_LOAD_WARM_UP = 5.0
MIXED_LOAD_RATE = 10.0
"""Single texts per second during the bulk job."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop, which takes less of the CPU that the client shares with the server."""
    return uvloop.run(work)


def load_cell(
    server: Server, case: str, requests: Sequence[Request], callers: int, seconds: float
) -> Cell:
    """Raises the exceptions in FAILURES."""
    run(_ungrouped(closed_loop(server, requests, min(callers, 4), WARM_UP)))
    trace = run(_ungrouped(closed_loop(server, requests, callers, seconds)))
    cell = to_cell(server.system.name, case, callers, requests[0].items, trace)
    print(
        f"  {cell.system:21} {cell.case:18} {cell.items:3} per request, {callers:2} callers"
        f"  {cell.rate:8.1f} items/s"
        f"  p50 {cell.p50 * 1000:7.1f} ms  p99 {cell.p99 * 1000:7.1f} ms"
        f"  CPU {cell.server_cpu * 1000:6.1f} ms  others {cell.other_cores:.2f}",
        flush=True,
    )
    return cell


def to_cell(system: str, case: str, callers: int, items: int, trace: Trace) -> Cell:
    p50, p95, p99 = (percentile(trace.latencies, share) for share in PERCENTILES)
    return Cell(
        system=system,
        case=case,
        concurrency=callers,
        items=items,
        requests=len(trace.latencies),
        rate=trace.items / trace.seconds,
        p50=p50,
        p95=p95,
        p99=p99,
        server_cpu=trace.server_cpu / trace.items,
        client_cpu=trace.client_cpu / trace.items,
        other_cores=trace.other_cpu / trace.seconds,
    )


async def _ungrouped(work: Coroutine[Any, Any, T]) -> T:
    """Raise the first failure of an exception group by itself."""
    try:
        return await work
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group


def measure_cases(
    results: Results,
    servers: Sequence[Server],
    cases: Sequence[tuple[str, Sequence[Request]]],
    callers: Sequence[int],
    seconds: float,
) -> None:
    """Measure each case with each number of callers, one server after the other.

    A server is idle while another one is measured. If a server fails at a case, the failure is
    recorded and the rest of the case is skipped for it.
    """
    for case, requests in cases:
        working = list(servers)
        for count, server in [(count, server) for count in callers for server in servers]:
            if server not in working:
                continue
            try:
                results.cells.append(load_cell(server, case, requests, count, seconds))
            except FAILURES as error:
                working.remove(server)
                reason = str(error).strip().splitlines()[-1] if str(error) else repr(error)
                load = f"{case}, {count} callers"
                results.missing.append(
                    Missing(system=server.system.name, case=load, reason=reason[:200])
                )
                print(f"  {load}: {reason[:200]}", flush=True)


def measure_mixed_load(
    server: Server, name: str, single: Sequence[Request], bulk: Sequence[Request], seconds: float
) -> MixedLoad:
    """Single texts at a fixed rate: alone, then while two callers send the bulk requests.

    The first MIXED_LOAD_WARM_UP seconds of both together do not count: a server may prepare for
    such a load, as this one does by loading an interactive replica.
    """

    async def beside(seconds: float) -> tuple[Trace, Trace]:
        async with asyncio.TaskGroup() as group:
            job = group.create_task(closed_loop(server, bulk, 2, seconds + 2))
            await asyncio.sleep(1)
            texts = group.create_task(open_loop(server, single, MIXED_LOAD_RATE, seconds))
        return texts.result(), job.result()

    idle = run(_ungrouped(open_loop(server, single, MIXED_LOAD_RATE, seconds)))
    run(_ungrouped(beside(MIXED_LOAD_WARM_UP)))
    busy, job = run(_ungrouped(beside(seconds)))
    percentiles = [
        [percentile(each.latencies, share) for share in PERCENTILES] for each in (idle, busy)
    ]
    load = MixedLoad(
        bulk=name, idle=percentiles[0], busy=percentiles[1], bulk_rate=job.items / job.seconds
    )
    print(
        f"  p99 of a text: idle {load.idle[2]:.4f} s, during {name} {load.busy[2]:.4f} s",
        flush=True,
    )
    return load


def sample_vectors(server: Server, requests: Sequence[Request]) -> Vectors:
    """The normalized vectors of one item of each case."""
    rows = np.concatenate([vectors(run(ask_once(server, each))) for each in requests])
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def video_request(video: Video) -> Request:
    source = {"type": "video_file", "video_path": video.path.name, "segment_config": video.segment}
    return render("/embeddings", {"input": source, "encoding_format": "base64"}, 1)


def time_video(server: Server, video: Video) -> tuple[float, float]:
    """(seconds, CPU seconds) for one request."""
    before, started = cpu_seconds(server.pid), time.perf_counter()
    run(ask_once(server, video_request(video)))
    return time.perf_counter() - started, cpu_seconds(server.pid) - before


def ask_model(server: Server) -> dict[str, Any]:
    """What this service reports about its model."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", "/model/current")
        facts: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    keys = ("device", "backend", "precision", "inference", "dimension", "fingerprint")
    return {key: facts[key] for key in keys if key in facts}
