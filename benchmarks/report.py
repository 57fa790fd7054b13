"""Render RESULTS.md from results. Pure: the same results give the same text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from benchmarks.figures import Cell, Results
from benchmarks.targets import BULK_CALLERS, BULK_ITEMS, GRAPH_OF, LATENCY, Target, ratio, targets

NOISE = 0.1
"""Cores that other processes may use before a row is marked."""


def render(results: Results) -> str:
    """The whole page."""
    parts = [
        "# Benchmark results",
        introduction(results),
        "## The machine",
        table(["", ""], results.machine.items()),
        "## Targets",
        target_table(targets(results)),
        *profiles(results),
        "## Images and texts over HTTP",
        LEGEND,
        *(case_table(results, case) for case in cases(results)),
        "## Service compared with its limit",
        PAIRS,
        pair_table(results),
        "## Limits",
        limits(results),
        "## Videos",
        video_table(results),
        "## Latency of a single text during a bulk job",
        mixed_load_table(results),
        "## Start, memory, size",
        start_table(results),
        "## Not measured",
        missing(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


LEGEND = (
    "One item per request, OpenAI's `/v1/embeddings`, vectors as base64, the same requests for "
    "every system, in a closed loop of the given number of clients. Latencies are in ms, CPU in "
    "core-milliseconds per item. `others`: cores used by everything else on the machine; a row "
    f"above {NOISE} is marked (!) and is less reliable. `x`: this service's rate divided by "
    "the row's."
)


PAIRS = (
    "Measured back to back, in several rounds; the target uses the median. Images: images/s and "
    "their limit, 16 clients. Many: texts/s in requests of "
    f"{BULK_ITEMS}, {BULK_CALLERS} clients, and `benchmark_app` with the same batches. Latency: ms "
    "for a text of 8 tokens, one client, and the median of `benchmark_app`."
)


LIMITS = (
    "The served graphs alone in OpenVINO's `benchmark_app`, at the served precision, and this "
    "service's own decoding and resizing on one thread. The limit for images is the number of "
    "cores divided by the CPU seconds of decode + resize + graph."
)


def introduction(results: Results) -> str:
    lines = [
        "Written by `make bench`" + (" QUICK=1" if results.quick else "") + ": one run, one "
        "machine, the same inputs and the same full-size random checkpoint for every system. "
        f"It took {results.seconds / 60:.0f} minutes.",
        "Served model: " + ", ".join(f"{key} {value}" for key, value in results.model.items()),
        *results.notes,
    ]
    if results.quick:
        lines.insert(
            0, "**A quick run: fewer loads, a few seconds each. Treat it as a rough estimate.**"
        )
    disturbed = sum(cell.other_cores > NOISE for cell in results.cells)
    if disturbed:
        lines.insert(
            0,
            f"**Provisional: other processes ran during {disturbed} of {len(results.cells)} "
            "loads. The absolute figures are too low and the ratios are uncertain.**",
        )
    return "\n\n".join(lines)


def target_table(goals: Sequence[Target]) -> str:
    labels = {True: "met", False: "**missed**", None: "not measured"}
    rows = [
        (
            each.name,
            each.goal,
            "-" if each.result is None else f"{each.result:.2f}{each.unit}",
            "-" if each.goal.startswith("reported") else labels[each.met],
        )
        for each in goals
    ]
    return table(["measurement", "target", "result", ""], rows)


def profiles(results: Results) -> Iterator[str]:
    """Where the time goes, for each missed target that has a profile."""
    missed = dict.fromkeys(each.key for each in targets(results) if each.met is False and each.key)
    shown = [key for key in missed if key in results.profiles or breakdown(results, key)]
    if shown:
        yield "### Where the time goes, for missed targets"
    for key in shown:
        yield f"**{key}**"
        yield breakdown(results, key)
        if key in results.profiles:
            yield "```\n" + "\n".join(results.profiles[key]) + "\n```"


def breakdown(results: Results, case: str) -> str:
    """CPU per item: the parts that count for the limit, and the rest."""
    cell = results.best("mmes", case)
    before = next((each for each in results.preparations if each.case == case), None)
    graph = results.graph_cpu(GRAPH_OF if before else case)
    if cell is None or graph is None:
        return ""
    decode, resize = (before.decode, before.resize) if before else (0.0, 0.0)
    rest = cell.server_cpu - decode - resize - graph
    idle = results.cores - cell.rate * (cell.server_cpu + cell.client_cpu) - cell.other_cores
    rows = [
        ("decode, alone", ms(decode)),
        ("resize, alone", ms(resize)),
        ("graph, alone in benchmark_app", ms(graph)),
        ("rest of the server: HTTP, base64, batching, slower graph and caches", ms(rest)),
        ("server, total", ms(cell.server_cpu)),
        ("client", ms(cell.client_cpu)),
        ("idle cores", f"{max(0.0, idle):.2f}"),
        ("cores used by others", f"{cell.other_cores:.2f}"),
    ]
    return table(["CPU per item", "ms"], rows)


def cases(results: Results) -> list[str]:
    """The cases of all loads, in the order in which they were measured."""
    return list(dict.fromkeys(cell.case for cell in results.cells if cell.items == 1))


HEAD = "system,clients,items/s,x,p50,p95,p99,server CPU,client CPU,others".split(",")


def case_table(results: Results, case: str) -> str:
    rows = []
    for cell in results.cells:
        if (cell.case, cell.items) == (case, 1):
            ours = results.cell("mmes", case, cell.concurrency)
            times = ratio(ours.rate if ours else None, cell.rate)
            rows.append(cell_row(cell, "-" if times is None else f"{times:.1f}"))
    return f"### {case}\n\n" + table(HEAD, rows)


def cell_row(cell: Cell, times: str) -> tuple[str, ...]:
    return (
        cell.system,
        str(cell.concurrency),
        f"{cell.rate:.1f}",
        times,
        *(ms(each) for each in (cell.p50, cell.p95, cell.p99)),
        ms(cell.server_cpu),
        f"{cell.client_cpu * 1000:.2f}",
        f"{cell.other_cores:.2f}" + (" (!)" if cell.other_cores > NOISE else ""),
    )


def pair_table(results: Results) -> str:
    rows = []
    for each in sorted(results.pairs, key=lambda pair: pair.case):
        unit = 1000 if each.case == LATENCY else 1
        figures = (each.served * unit, each.limit * unit, each.served / each.limit)
        rows.append((each.case, *(f"{figure:.2f}" for figure in figures)))
    return table(["case", "service", "limit", "ratio"], rows)


def limits(results: Results) -> str:
    graphs = [
        (each.case, str(each.batch), each.hint, f"{each.rate:.1f}", ms(each.median), ms(each.cpu))
        for each in results.graphs
    ]
    preparations = [
        (
            each.case,
            ms(each.decode),
            ms(each.resize),
            ms(results.graph_cpu(GRAPH_OF) or 0.0),
            f"{results.image_limit(each.case, GRAPH_OF) or 0.0:.1f}",
        )
        for each in results.preparations
    ]
    head = ["image", "decode, ms", "resize, ms", "graph, core-ms", "limit, images/s"]
    return "\n\n".join(
        [
            LIMITS,
            table(["graph", "batch", "hint", "items/s", "median, ms", "CPU, ms"], graphs),
            table(head, preparations),
        ]
    )


def video_table(results: Results) -> str:
    rows = [
        (
            each.video,
            str(each.frames),
            f"{each.seconds:.2f}",
            f"{each.decode:.2f}",
            f"{each.graph:.2f}",
            f"{each.seconds / (each.decode + each.graph):.2f}",
            f"{each.server_cpu:.2f}",
        )
        for each in results.videos
    ]
    head = ["video", "frames", "service, s", "decode alone, s", "graph alone, s", "ratio", "CPU, s"]
    return table(head, rows)


def mixed_load_table(results: Results) -> str:
    rows = []
    for each in results.mixed_loads:
        rows += [
            ("none", "-", *map(ms, each.idle)),
            (each.bulk, f"{each.bulk_rate:.1f}", *map(ms, each.busy)),
        ]
    return table(["bulk job", "bulk items/s", "p50, ms", "p95, ms", "p99, ms"], rows)


def start_table(results: Results) -> str:
    rows = [
        (
            each.system,
            each.about,
            "-" if each.first is None else f"{each.first:.2f}",
            f"{each.peak_memory / 1e6:.0f}",
            f"{each.installed / 1e6:.0f}",
            "-" if each.cosine is None else f"{each.cosine:.6f}",
            ", ".join(f"{name} {version}" for name, version in each.versions.items()),
        )
        for each in results.starts
    ]
    head = ["system", "", "first vector, s", "peak RSS, MB", "installed, MB", "cosine", "versions"]
    legend = "`cosine`: the lowest cosine of a text and an image vector to this service's."
    return f"{table(head, rows)}\n\n{legend}" if rows else ""


def missing(results: Results) -> str:
    rows = [(each.system, each.case, each.reason) for each in results.missing]
    return table(["system", "case", "reason"], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; empty if there are no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines])


def ms(seconds: float) -> str:
    """Milliseconds with three digits."""
    value = seconds * 1000
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def summary(results: Results) -> str:
    """The text that the command prints at the end."""
    lines = ["", *(f"{name:22} {value}" for name, value in results.machine.items()), ""]
    for each in targets(results):
        result = "not measured" if each.result is None else f"{each.result:.2f}{each.unit}"
        verdict = "" if each.met is not False else "  MISSED"
        lines.append(f"{each.name:75} {each.goal:>14} {result:>14}{verdict}")
    return "\n".join(lines)
