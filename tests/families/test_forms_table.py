"""The table of tested checkpoints in docs/models.md has each form that is tried, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from multimodal_embedding_serving.catalog import resolve
from tests.families.forms import FORMS, PAGE, cells_of_the_page
from tests.families.test_published_forms import MIN_COSINE
from tests.parity.test_table import MEASURED

CELLS = cells_of_the_page()
LAYOUT = re.compile(r"(\w+) layout, as in the catalog")


def literals() -> set[object]:
    """Every constant of the tests of forms."""
    folder = Path(__file__).parent
    trees = [ast.parse(path.read_text("utf-8")) for path in folder.glob("test_*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return {node.value for node in nodes if isinstance(node, ast.Constant)}


def test_every_form_is_tried_by_a_test() -> None:
    assert FORMS.keys() <= literals()


def test_the_page_has_each_form_and_no_other() -> None:
    found = [(family, form) for family, form, _, _ in CELLS if not LAYOUT.fullmatch(form)]
    assert sorted(found) == sorted((form.family, name) for name, form in FORMS.items())


def test_the_page_has_each_layout_of_the_catalog() -> None:
    matches = [(family, LAYOUT.fullmatch(form)) for family, form, _, _ in CELLS]
    found = [(family, match[1]) for family, match in matches if match]
    assert sorted(set(found)) == sorted(found)
    assert set(found) == {(resolve(row).family, layout) for row, layout in MEASURED}


@pytest.mark.parametrize(("family", "form", "against", "outcome"), CELLS)
def test_an_outcome_is_of_its_kind(family: str, form: str, against: str, outcome: str) -> None:
    if not LAYOUT.fullmatch(form):
        assert against == (FORMS[form].against or "")
    if against:
        assert float(outcome) >= MIN_COSINE
    else:
        assert re.fullmatch(r"`.{20,}`", outcome)


def test_the_page_names_the_instruction_sets() -> None:
    assert re.search(r"^Measured with .* on an x86-64 CPU with \w+", PAGE.read_text("utf-8"), re.M)
