"""The plots next to RESULTS.md. matplotlib is in the benchmark's environment only."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt  # after the backend is set

from benchmarks.figures import Results
from benchmarks.report import cases
from benchmarks.targets import GRAPH_OF

COLORS = {
    "mmes": "#0b6e4f",
    "infinity": "#c8553d",
    "sentence-transformers": "#588b8b",
    "transformers": "#8f8f8f",
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Write rates.png and latencies.png, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_rates(results, folder / "rates.png"), _latencies(results, folder / "latencies.png")]


def _rates(results: Results, path: Path) -> Path:
    """Items per second of every system, case by case, with the limit as a line."""
    names = cases(results)
    figure, axes = plt.subplots(1, len(names), figsize=(2.6 * len(names), 3.4), squeeze=False)
    for axis, case in zip(axes[0], names, strict=True):
        cells = [(name, results.best(name, case)) for name in COLORS]
        bars = [(name, cell.rate) for name, cell in cells if cell is not None]
        places = range(len(bars))
        container = axis.bar(places, [rate for _, rate in bars], color=[COLORS[n] for n, _ in bars])
        axis.bar_label(container, fmt="%.3g", fontsize=8)
        limit = results.image_limit(case, GRAPH_OF) or results.graph_rate(case)
        if limit:
            axis.axhline(limit, color="black", linewidth=1, linestyle="--")
        axis.set_xticks(
            list(places), [name for name, _ in bars], rotation=40, ha="right", fontsize=7
        )
        axis.set_title(case, fontsize=9)
        axis.set_ylim(bottom=0)
    axes[0][0].set_ylabel("items per second, best load")
    figure.suptitle(
        "One item per request over HTTP; dashed: the limit of the hardware", fontsize=10
    )
    return _save(figure, path)


def _latencies(results: Results, path: Path) -> Path:
    """p50 and p99 by number of clients."""
    names = cases(results)
    figure, axes = plt.subplots(1, len(names), figsize=(2.6 * len(names), 3.2), squeeze=False)
    for axis, case in zip(axes[0], names, strict=True):
        for name, color in COLORS.items():
            cells = [c for c in results.cells if (c.system, c.case, c.items) == (name, case, 1)]
            callers = [cell.concurrency for cell in cells]
            label = {"label": name}
            axis.plot(callers, [c.p50 * 1000 for c in cells], "o-", color=color, **label)
            axis.plot(callers, [c.p99 * 1000 for c in cells], "x:", color=color)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_title(case, fontsize=9)
        axis.set_xlabel("clients", fontsize=8)
    axes[0][0].set_ylabel("ms; solid p50, dotted p99")
    axes[0][0].legend(fontsize=6)
    return _save(figure, path)


def _save(figure: plt.Figure, path: Path) -> Path:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
