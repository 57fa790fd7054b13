"""Collects what the parity tests measured and prints it as a table at the end of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Note = Callable[[str, str, str, str, float], None]
"""(row, layout, oracle, precision, least cosine)"""

Measured = dict[tuple[str, str, str], dict[str, float]]
MEASURED = pytest.StashKey[Measured]()
PRECISIONS = {
    "f32": "float32",
    "f16": "f16 weights",
    "int8-weights": "int8 weights",
    "bf16": "bf16 (torch)",
}
LINE = "{:<27} {:<13} {:<26} {:>9} {:>12} {:>12} {:>14}"


@pytest.fixture(scope="session")
def note(request: pytest.FixtureRequest) -> Note:
    table = request.config.stash.setdefault(MEASURED, {})

    def write(row: str, layout: str, oracle: str, precision: str, cosine: float) -> None:
        cells = table.setdefault((row, layout, oracle), {})
        cells[precision] = min(cosine, cells.get(precision, 1.0))

    return write


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker of pytest-xdist has ended: take over what it measured."""
    table = node.config.stash.setdefault(MEASURED, {})
    for names, cells in getattr(node, "workeroutput", {}).get("parity", []):
        table.setdefault(tuple(names), {}).update(cells)


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # in a worker
        output["parity"] = list(session.config.stash.get(MEASURED, {}).items())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    table = terminalreporter.config.stash.get(MEASURED, {})
    if not table:
        return
    terminalreporter.section("parity: least cosine to the upstream library")
    terminalreporter.line(LINE.format("row", "layout", "oracle", *PRECISIONS.values()))
    for names, cells in sorted(table.items()):
        figures = [f"{cells[kind]:.7f}" if kind in cells else "-" for kind in PRECISIONS]
        terminalreporter.line(LINE.format(*names, *figures))
