"""The soak of `make soak`, in two short rounds."""

from __future__ import annotations

import sys

import pytest

from tests.conftest import Figure
from tests.safety.soak import soak
from tests.safety.soak_clients import same


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_is_wrong_or_left_behind_under_load_damage_and_kills(figure: Figure) -> None:
    report, wrong = soak(45, 15)
    figure(f"soak: {report}")
    assert not wrong
    assert report["compared"] > 20
    assert report["damaged inputs"] > 20
    assert report["decoders killed"] > 0
    assert report["rounds ended by SIGTERM"] > 0
    assert report["rounds ended by SIGKILL"] > 0
    assert report["flipped bits"] > 0


def test_another_vector_would_be_noticed() -> None:
    import numpy as np

    one = np.eye(3)
    assert same(one, one)
    assert not same(one, one[::-1])
    assert not same(one[:2], one)
