"""The generated tables of docs/ say what the code says."""

from __future__ import annotations

import pytest

from scripts.generate_docs import DOCS, PAGES, renewed


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str) -> None:
    assert (DOCS / name).read_text("utf-8") == renewed(name), "run `make docs`"
