"""A conversion that is killed, raced for, or done already: with real processes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conversion import (
    LAION,
    SERVE,
    Place,
    conversions,
    embed_texts,
    killed_places,
    length_of_conversion,
    survive_kills,
)
from tests.hub_standin import HubStandIn
from tests.serving import Running, serving
from tests.small_clip import repository, write_clip


@pytest.fixture
def place(hub: HubStandIn, tmp_path: Path) -> Place:
    hub.add(LAION, repository(write_clip(tmp_path / "checkpoint")))
    return Place(hub, tmp_path)


@pytest.mark.parametrize("moments", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_a_conversion_may_be_killed_at_any_moment(place: Place, moments: int) -> None:
    length = length_of_conversion(Place(place.hub, place.folder / "whole"))
    survive_kills(killed_places(place, moments, same_home=False), length, moments)


def test_two_servers_on_one_empty_folder_both_come_up_and_one_converts(place: Place) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:

        def start(_: int) -> Running:
            return stack.enter_context(serving(SERVE, environ=place.environ))

        first, second = pool.map(start, range(2))
        assert conversions(first, second) == 1
        assert np.array_equal(embed_texts(first), embed_texts(second))


def test_a_second_start_converts_nothing_and_asks_nobody(place: Place) -> None:
    with serving(SERVE, environ=place.environ) as first:
        assert conversions(first) == 1
        expected = embed_texts(first)
    asked = len(place.hub.requests)
    assert asked > 0
    with serving(SERVE, environ=place.environ) as second:
        assert conversions(second) == 0
        assert np.array_equal(embed_texts(second), expected)
    assert len(place.hub.requests) == asked
    place.changes["HF_HUB_OFFLINE"] = "1"
    with serving(SERVE, environ=place.environ) as third:
        assert np.array_equal(embed_texts(third), expected)
