"""Compare every row of the catalog with its upstream library; write docs/parity.md's table.

It runs tests/parity, and fails if they fail: `python -m scripts.parity_table`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from multimodal_embedding_serving.catalog import MODELS, resolve
from scripts.generate_docs import END
from scripts.tables import table
from tests.parity.conftest import MEASURED, Measured

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "parity.md"
BEGIN = "<!-- measured by scripts/parity_table.py -->\n"
HEAD = ["model", "layout", "upstream", "float32", "stored as", "as stored"]


class Listener:
    """Keeps the measurements of a run."""

    def __init__(self) -> None:
        self.measured: Measured = {}

    def pytest_terminal_summary(self, config: pytest.Config) -> None:
        self.measured = config.stash.get(MEASURED, {})


def rows(measured: Measured) -> Iterator[list[str]]:
    """In the catalog's order."""
    places = {spec.name: place for place, spec in enumerate(MODELS)}
    for names in sorted(measured, key=lambda names: (places[names[0]], names)):
        row, layout, oracle = names
        spec, cells = resolve(row), measured[names]
        figures = f"{cells['f32']:.7f}", spec.precision, f"{cells[spec.precision]:.7f}"
        yield [f"`{spec.id}`", layout, oracle, *figures]


def main() -> None:
    listener = Listener()
    status = pytest.main([str(ROOT / "tests" / "parity"), "-q", "-k", "vectors"], [listener])
    if status:
        raise SystemExit(int(status))
    generated = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    part = BEGIN + table(HEAD, rows(listener.measured)) + END
    PAGE.write_text(generated.sub(lambda _: part, PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
