"""What is computed from measurements: percentiles, limits, ratios."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import Results, percentile
from benchmarks.limit import BenchmarkAppError, read_report
from benchmarks.load import Trace
from benchmarks.measure import to_cell
from benchmarks.targets import Target, ratio, targets
from tests.benchmarks.figures import JPEG, SHORT, cell, results

VALUES = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


@given(VALUES, st.floats(0, 100))
def test_a_percentile_is_numpys_inverted_cdf(values: list[float], share: float) -> None:
    assert percentile(values, share) == np.percentile(values, share, method="inverted_cdf")


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_results_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    results().save(tmp_path / "last.json")
    assert Results.load(tmp_path / "last.json") == results()


def test_a_pictures_limit_is_the_cores_over_all_cpu_seconds_of_one() -> None:
    assert results().graph_cpu("image") == pytest.approx(2 / 50)
    assert results().image_limit(JPEG, "image") == pytest.approx(2 / (0.01 + 0.01 + 0.04))


def test_what_was_not_measured_has_no_limit() -> None:
    assert results().image_limit("JPEG, 1x1", "image") is None
    assert results().image_limit(JPEG, "no such graph") is None


def test_the_best_load_counts_single_items_only() -> None:
    run = results()
    run.cells.append(cell("mmes", SHORT, items=32, rate=190.0))
    best = run.best("mmes", SHORT)
    assert best is not None
    assert (best.items, best.rate) == (1, 100.0)


def test_a_cell_is_its_trace_per_item_and_second() -> None:
    trace = Trace(
        latencies=[0.1, 0.2, 0.3, 0.4], items=128, seconds=2.0, server_cpu=3.2, client_cpu=0.64,
        other_cpu=0.5,
    )  # fmt: skip
    result = to_cell("mmes", SHORT, 8, 32, trace)
    expected = cell(
        "mmes", SHORT, items=32, requests=4, rate=64.0, p50=0.2, p95=0.4, p99=0.4,
        server_cpu=0.025, client_cpu=0.005, other_cores=0.25,
    )  # fmt: skip
    assert result == expected


def by_name(part: str) -> Target:
    (target,) = [each for each in targets(results()) if part in each.name]
    return target


@pytest.mark.parametrize(
    ("part", "value", "met"),
    [
        ("640x480: served images/s over the limit", 31 / 33, True),
        ("8 tokens, 32 per request", 190 / 200, True),
        ("8 tokens, one per request", 0.01 / 0.0125, True),
        ("640x480: images/s over infinity", 3.1, True),
        ("8 tokens: p50 with one client", 1.0, True),
        ("p99 of a single text during a job", 4.0, False),
        ("first vector", 3.5, True),
        ("site-packages", 450.0, True),
        ("a video: time over", 2.5 / 2.28, True),
        ("640x480: images/s over transformers", None, None),
        ("77 tokens, 32 per request", None, None),
    ],
)
def test_a_target_is_a_ratio_of_one_runs_figures(
    part: str, value: float | None, met: bool | None
) -> None:
    target = by_name(part)
    assert target.result == (None if value is None else pytest.approx(value))
    assert target.met is met


REPORT = """
[ INFO ] Count:            120 iterations
[ INFO ] Duration:         3000.00 ms
[ INFO ] Latency:
[ INFO ]    Median:        24.50 ms
[ INFO ]    Average:       25.00 ms
[ INFO ] Throughput:   40.00 FPS
"""


def test_benchmark_apps_report_is_read_as_items_a_second() -> None:
    rate = read_report(REPORT, "image", "image", 8, "throughput", 4.8)
    assert (rate.rate, rate.median, rate.cpu) == (320.0, 0.0245, 0.005)


def test_a_report_without_figures_is_told() -> None:
    with pytest.raises(BenchmarkAppError, match="invalid value"):
        read_report("benchmark_app: error: invalid value", "image", "image", 8, "latency", 0.0)


def test_a_ratio_needs_both_sides() -> None:
    assert ratio(1.0, None) is None
    assert ratio(None, 1.0) is None
    assert ratio(1.0, 0.0) is None
    assert ratio(3.0, 2.0) == 1.5
