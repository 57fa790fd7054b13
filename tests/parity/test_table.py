"""The table of parity is complete: each row of the catalog in each layout that it comes in.

A row that the catalog marks as not yet measured may be missing.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from multimodal_embedding_serving.catalog import DEFAULT_MODEL, MODELS, resolve
from multimodal_embedding_serving.conversion.parity import BOUNDS
from tests.parity import test_golden, test_mobileclip, test_qwen_text, test_transformers
from tests.parity.small import LAYOUTS

PAGE = Path(__file__).parent.parent.parent / "docs" / "parity.md"
CELLS = re.findall(r"^\| `(\S+)` \| (\w+) \| (.+?) \|$", PAGE.read_text("utf-8"), re.MULTILINE)

MEASURED = {
    *((row, "transformers") for row in test_transformers.FILES),
    *((row, "transformers") for row in test_qwen_text.ROWS_OF_THE_CATALOG),
    *((row, test_golden.layout_of(row)) for row in test_golden.FILES),
    *((row, "apple") for row in test_mobileclip.APPLE),
    *((row, "open_clip") for row in test_mobileclip.OPEN_CLIP),
}
"""(row, layout) of every measured vector, from the lists that the tests run over."""


def test_every_row_is_measured_in_every_layout_that_it_has() -> None:
    rows = {spec.name for spec in MODELS if spec.id != DEFAULT_MODEL}
    unmeasured = {spec.name for spec in MODELS if not spec.measured}
    assert rows - unmeasured <= {row for row, _ in MEASURED} <= rows
    dumped = {tuple(path.name.removesuffix(".tsv.gz").split(".", 1)) for path in LAYOUTS.iterdir()}
    known = {(name.rpartition(".")[0], name.rpartition(".")[2]) for name in map(".".join, dumped)}
    same = {("mobileclip_blt", layout) for row, layout in known if row == "mobileclip_b"}
    assert known | same == MEASURED


def test_the_page_holds_every_measured_figure() -> None:
    assert {(row.rpartition("/")[2], layout) for row, layout, _ in CELLS} == MEASURED
    assert len(CELLS) == len(MEASURED)


@pytest.mark.parametrize(("row", "layout", "rest"), CELLS, ids=lambda each: each.split()[0])
def test_a_figure_of_the_page_meets_its_bound(row: str, layout: str, rest: str) -> None:
    _, exact, stored, figure = rest.split(" | ")
    assert stored == resolve(row).precision
    assert float(exact) >= (BOUNDS["f32"] or 1)
    assert float(figure) >= (BOUNDS[stored] or 1)
