"""A family reads like its paper: on a page or two."""

from __future__ import annotations

from pathlib import Path

import pytest

from multimodal_embedding_serving import families

LONGER = {"mobileclip": 300, "builtin": 150}
"""Lines: two kinds of towers and folding; two networks and how a picture comes among words."""


@pytest.mark.parametrize("module", families.FAMILIES.values())
def test_a_family_is_short(module: str) -> None:
    file = Path(families.__file__).with_name(f"{module}.py")
    assert len(file.read_text("utf-8").splitlines()) <= LONGER.get(module, 115)
