"""Loads against one running system -> figures."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

import numpy as np
import uvloop

from benchmarks.figures import PERCENTILES, Cell, Lanes, Missing, Results, percentile
from benchmarks.inputs import Film
from benchmarks.load import (
    Refused,
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

FAILURES = (ServerEnded, Refused, OSError, TimeoutError)
WARM_UP = 1.0
"""Seconds of each load before its clock starts."""
T = TypeVar("T")

LANE_WARM_UP = 5.0
LANE_RATE = 10.0
"""Single texts a second beside the bulk job."""


def run(work: Coroutine[Any, Any, T]) -> T:
    """uvloop takes less of the cores that are shared with the server."""
    return uvloop.run(work)


def load_cell(
    server: Server, case: str, requests: Sequence[Request], callers: int, seconds: float
) -> Cell:
    """Raises what FAILURES lists."""
    run(_ungrouped(closed_loop(server, requests, min(callers, 4), WARM_UP)))
    trace = run(_ungrouped(closed_loop(server, requests, callers, seconds)))
    cell = to_cell(server.system.name, case, callers, requests[0].items, trace)
    print(
        f"  {cell.system:21} {cell.case:18} {cell.items:3} a request, {callers:2} callers"
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
    """The first failure of a group, by itself."""
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
    """Each case under each number of callers, by one server after the other.

    A server is idle while another is measured. A case that one fails at is noted and left.
    """
    for case, requests in cases:
        left = list(servers)
        for count, server in [(count, server) for count in callers for server in servers]:
            if server not in left:
                continue
            try:
                results.cells.append(load_cell(server, case, requests, count, seconds))
            except FAILURES as error:
                left.remove(server)
                reason = str(error).strip().splitlines()[-1] if str(error) else repr(error)
                where = f"{case}, {count} callers"
                results.missing.append(
                    Missing(system=server.system.name, case=where, reason=reason[:200])
                )
                print(f"  {where}: {reason[:200]}", flush=True)


def measure_lanes(
    server: Server, name: str, single: Sequence[Request], bulk: Sequence[Request], seconds: float
) -> Lanes:
    """Single texts by the clock: alone, then while two callers send the bulk requests.

    The first LANE_WARM_UP seconds of both kinds together are not counted: a server may get itself
    ready for it.
    """

    async def beside(seconds: float) -> tuple[Trace, Trace]:
        async with asyncio.TaskGroup() as group:
            job = group.create_task(closed_loop(server, bulk, 2, seconds + 2))
            await asyncio.sleep(1)
            texts = group.create_task(open_loop(server, single, LANE_RATE, seconds))
        return texts.result(), job.result()

    idle = run(_ungrouped(open_loop(server, single, LANE_RATE, seconds)))
    run(_ungrouped(beside(LANE_WARM_UP)))
    busy, job = run(_ungrouped(beside(seconds)))
    told = [[percentile(each.latencies, share) for share in PERCENTILES] for each in (idle, busy)]
    lanes = Lanes(bulk=name, idle=told[0], busy=told[1], bulk_rate=job.items / job.seconds)
    print(f"  a text's p99: idle {told[0][2]:.4f} s, beside {name} {told[1][2]:.4f} s", flush=True)
    return lanes


def sample_vectors(server: Server, requests: Sequence[Request]) -> Vectors:
    """The vectors of one item of each case, of unit length."""
    rows = np.concatenate([vectors(run(ask_once(server, each))) for each in requests])
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def film_request(film: Film) -> Request:
    source = {"type": "video_file", "video_path": film.path.name, "segment_config": film.segment}
    return render("/embeddings", {"input": source, "encoding_format": "base64"}, 1)


def time_video(server: Server, film: Film) -> tuple[float, float]:
    """(seconds, CPU seconds) of one request."""
    before, begun = cpu_seconds(server.pid), time.perf_counter()
    run(ask_once(server, film_request(film)))
    return time.perf_counter() - begun, cpu_seconds(server.pid) - before


def ask_model(server: Server) -> dict[str, Any]:
    """What this service says of its model."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", "/model/current")
        told: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    shown = ("device", "backend", "precision", "inference", "dimension", "fingerprint")
    return {key: told[key] for key in shown if key in told}
