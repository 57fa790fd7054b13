"""A process keeps its locale, however many graphs are compiled at a time."""

from __future__ import annotations

import locale
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from multimodal_embedding_serving.graph.runtime import keeping_locale, opset, ov

UTF8 = "C.UTF-8"


@pytest.fixture(autouse=True)
def utf8() -> None:
    try:
        locale.setlocale(locale.LC_ALL, UTF8)
    except locale.Error:
        pytest.skip(f"this system has no {UTF8}")


def compile_and_keep(folder: Path, width: int) -> None:
    """It is while the compiled graph is written that OpenVINO sets the locale."""
    x = opset.parameter([-1, width], np.float32)
    y = x
    for layer in range(60):
        weights = np.full((width, width), layer, np.float32)
        y = opset.tanh(opset.matmul(y, weights, False, False))
    ov.Core().compile_model(ov.Model([y], [x]), "CPU", {"CACHE_DIR": str(folder)})


@pytest.mark.parametrize("number", range(6))
def test_graphs_compiled_at_a_time_leave_the_locale_as_it_was(number: int, tmp_path: Path) -> None:
    """Without `keeping_locale` every second run ends in the locale C."""
    with keeping_locale(), ThreadPoolExecutor(2) as threads:
        list(threads.map(partial(compile_and_keep, tmp_path), (64, 65)))
    assert locale.setlocale(locale.LC_CTYPE) == UTF8


def test_an_error_leaves_the_locale_as_it_was() -> None:
    def fail() -> None:
        with keeping_locale():
            locale.setlocale(locale.LC_ALL, "C")
            raise ValueError("any")

    with pytest.raises(ValueError, match="any"):
        fail()
    assert locale.setlocale(locale.LC_CTYPE) == UTF8
