"""The same work for every tower of a model, concurrently where memory allows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.graph.runtime import keeping_locale
from multimodal_embedding_serving.types import Modality

Result = TypeVar("Result")


def map_towers(
    work: Callable[[TowerSpec], Result],
    plans: Sequence[TowerSpec],
    report: Callable[[float], None],
    *,
    together: bool = True,
) -> dict[Modality, Result]:
    """`work(plan)` for every tower, concurrently or in turn; `report` receives the fraction done.

    Most of the work runs on one core, in libraries that release the GIL. Raises what `work` raises.
    """
    report(0.0)
    pool = ThreadPoolExecutor(len(plans) if together else 1)
    with keeping_locale():
        try:
            futures = {pool.submit(work, plan): plan.modality for plan in plans}
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                report(done / len(plans))
        finally:
            pool.shutdown(cancel_futures=True)
    return {modality: future.result() for future, modality in futures.items()}
