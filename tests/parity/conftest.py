"""Collects what the parity tests measured and prints it as a table at the end of the run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Note = Callable[[str, str, str, str, float], None]
"""(row, layout, oracle, precision, least cosine)"""

MEASURED = pytest.StashKey[dict[tuple[str, str, str], dict[str, float]]]()


@pytest.fixture(scope="session")
def note(request: pytest.FixtureRequest) -> Note:
    table = request.config.stash.setdefault(MEASURED, {})

    def write(row: str, layout: str, oracle: str, precision: str, cosine: float) -> None:
        cells = table.setdefault((row, layout, oracle), {})
        cells[precision] = min(cosine, cells.get(precision, 1.0))

    return write


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    table = terminalreporter.config.stash.get(MEASURED, {})
    if not table:
        return
    terminalreporter.section("parity: least cosine to the upstream library")
    head = ("row", "layout", "oracle", "float32", "f16 weights", "int8 weights")
    terminalreporter.line("{:<27} {:<13} {:<26} {:>9} {:>12} {:>12}".format(*head))
    for names, cells in sorted(table.items()):
        figures = [
            f"{cells[kind]:.7f}" if kind in cells else "-"
            for kind in ("f32", "f16", "int8-weights")
        ]
        row = "{:<27} {:<13} {:<26} {:>9} {:>12} {:>12}".format(*names, *figures)
        terminalreporter.line(row)
