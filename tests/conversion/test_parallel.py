"""Work on several towers: at the same time, in turn, and what happens to an error."""

from __future__ import annotations

import threading

import pytest

from multimodal_embedding_serving.conversion.parallel import map_towers
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.families import TowerSpec
from tests.fakes import PATIENCE
from tests.small_model import small_plans


def test_towers_are_worked_on_at_the_same_time_where_that_is_allowed() -> None:
    meeting = threading.Barrier(2, timeout=PATIENCE)
    shares: list[float] = []

    def meet(plan: TowerSpec) -> int:
        meeting.wait()
        return plan.dimension

    assert map_towers(meet, small_plans(), shares.append) == {"image": 8, "text": 8}
    assert shares == [0, 0.5, 1]


def test_towers_are_worked_on_one_after_the_other_where_memory_is_short() -> None:
    busy = threading.Lock()

    def work(plan: TowerSpec) -> bool:
        alone = busy.acquire(blocking=False)
        busy.release()
        return alone

    done = map_towers(work, small_plans(), lambda share: None, together=False)
    assert done == {"image": True, "text": True}


def test_a_tower_that_fails_is_told() -> None:
    def fail(plan: TowerSpec) -> None:
        if plan.modality == "text":
            raise BundleError("no text")

    with pytest.raises(BundleError, match="no text"):
        map_towers(fail, small_plans(), lambda share: None)
