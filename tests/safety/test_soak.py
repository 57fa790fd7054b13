"""The soak of `make soak`, for a quarter of a minute."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import Figure
from tests.safety.soak import same, soak


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_wrong_or_left_behind_under_load_damage_and_kills(figure: Figure) -> None:
    report, wrong = soak(20)
    figure(f"soak: {report}")
    assert not wrong
    assert report["compared"] > 20
    assert report["damaged inputs"] > 20
    assert report["decoders killed"] > 0


def test_another_vector_would_be_noticed() -> None:
    import numpy as np

    one = np.eye(3)
    assert same(one, one)
    assert not same(one, one[::-1])
    assert not same(one[:2], one)
