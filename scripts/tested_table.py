"""Try each form of checkpoint; write docs/models.md's table of them.

It runs the tests of forms and of parity, and fails if they fail: `python -m scripts.tested_table`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten

import pytest

from multimodal_embedding_serving.backends.quantization import list_instructions
from multimodal_embedding_serving.catalog import MODELS, resolve
from scripts.generate_docs import END
from scripts.tables import table
from tests.families.forms import BEGIN, FORMS, OUTCOMES, PAGE, Outcome, Outcomes
from tests.parity.conftest import MEASURED, Measured

TESTS = Path(__file__).parent.parent / "tests"
HEAD = ["family", "form", "compared with", "lowest cosine, or the error"]
FAMILIES = ("CLIP", "CN-CLIP", "MobileCLIP", "SigLIP", "Blip2", "QwenText", "none")
MAX_MESSAGE = 240
"""Characters of a message that the table shows."""

Row = tuple[str, str, str, Outcome]


class Listener:
    """Runs the tests that note a figure or a message, and keeps their results."""

    def __init__(self) -> None:
        self.measured: Measured = {}
        self.outcomes: Outcomes = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        items[:] = [item for item in items if {"tested", "note"} & set(item.fixturenames)]

    def pytest_terminal_summary(self, config: pytest.Config) -> None:
        self.measured = config.stash.get(MEASURED, {})
        self.outcomes = config.stash.get(OUTCOMES, {})


def layouts(measured: Measured) -> Iterator[Row]:
    """Each family in each layout of its rows: the least figure of them in float32."""
    least: dict[tuple[str, str, str], float] = {}
    for (row, layout, oracle), cells in measured.items():
        if row not in {spec.name for spec in MODELS}:
            continue  # a form, which has a row of its own
        library = re.split(r"_torch|,? [\d(]|, ", oracle)[0]
        key = resolve(row).family, f"{layout} layout, as in the catalog", library
        least[key] = min(cells["f32"], least.get(key, 1.0))
    for key, figure in least.items():
        yield *key, figure


def forms(outcomes: Outcomes) -> Iterator[Row]:
    for name, form in FORMS.items():
        yield form.family, name, form.against or "", outcomes[name]


def order(row: Row) -> tuple[int, bool, bool]:
    family, name, against, _ = row
    return FAMILIES.index(family), not against, "as in the catalog" not in name


def cells(row: Row) -> list[str]:
    *names, outcome = row
    if isinstance(outcome, float):
        return [*names, f"{outcome:.7f}"]
    shown = shorten(outcome, MAX_MESSAGE, placeholder=" …").replace("|", "\\|").replace("`", "'")
    return [*names, f"`{shown}`"]


def main() -> None:
    listener = Listener()
    places = [str(TESTS / "parity"), str(TESTS / "families")]
    status = pytest.main([*places, "-q"], [listener])
    if status:
        raise SystemExit(int(status))
    if missing := FORMS.keys() - listener.outcomes.keys():
        raise SystemExit(f"no test tried: {', '.join(sorted(missing))}")
    rows = sorted([*layouts(listener.measured), *forms(listener.outcomes)], key=order)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("transformers", "peft", "torch"))
    machine = f"{libraries} on an x86-64 CPU with {', '.join(list_instructions())}"
    part = BEGIN + table(HEAD, map(cells, rows)) + f"\nMeasured with {machine}.\n" + END
    generated = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    PAGE.write_text(generated.sub(lambda _: part, PAGE.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
