"""A family reads like its paper: on a page or two."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from multimodal_embedding_serving.families import FAMILIES, find_family

LONGER = {"mobileclip": 300, "builtin": 150, "qwen_text": 160}
"""Lines: two kinds of towers and folding; two networks and how a picture comes among words; a
decoder that is causal or not."""


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_short(name: str) -> None:
    file = Path(inspect.getfile(find_family(name).plan))
    assert len(file.read_text("utf-8").splitlines()) <= LONGER.get(file.stem, 140)
