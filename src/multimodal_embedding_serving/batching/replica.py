"""The interactive replica: a second copy of a graph, for interactive items that bulk holds up.

A call of a graph can't be interrupted, and a long one holds up whoever comes behind it. So an
interactive item that finds every worker busy, one of them with bulk, is answered by a copy of the
graph on a thread of its own. The copy is opened when it is first needed; the two share the
processors from then on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from multimodal_embedding_serving.batching.priority import REPLICA_NICENESS, lower_priority
from multimodal_embedding_serving.batching.queue import Entry, Schedule
from multimodal_embedding_serving.types import Graph

log = logging.getLogger(__name__)

OpenReplica = Callable[[], Graph | None]
"""Opens a copy of the graph; None where there is no room for one."""


class Compute(Protocol):
    """What a batcher does with a batch."""

    def run(self, batch: Sequence[Entry]) -> None:
        """Compute and answer a batch on the batcher's own graph."""
        ...

    def try_run(self, batch: Sequence[Entry], graph: Graph) -> bool:
        """Compute and answer a batch on another graph; False, and no answer, where that fails."""
        ...


class Replica(threading.Thread):
    """The replica's thread: ends when the schedule is closed, no copy can be had, or it failed."""

    def __init__(
        self, schedule: Schedule, compute: Compute, open_replica: OpenReplica, *, name: str
    ) -> None:
        super().__init__(name=f"{name}-replica", daemon=True)
        self._schedule, self._compute, self._open_replica = schedule, compute, open_replica

    def run(self) -> None:
        lower_priority(REPLICA_NICENESS)
        if not self._schedule.wait_until_held_up():
            return
        # Opening a copy takes the processors for a second or so: bulk alone steps aside.
        with self._schedule.pausing_bulk():
            graph = self._open()
        if graph is None:
            return
        while (batch := self._schedule.take_held_up()) is not None:
            if batch and not self._compute.try_run(batch, graph):
                log.error(
                    "interactive replica closed after a failure; "
                    "the graph itself takes its batch of %d",
                    len(batch),
                )
                self._compute.run(batch)
                break
        graph.close()

    def _open(self) -> Graph | None:
        try:
            return self._open_replica()
        except Exception:
            log.exception("no interactive replica: a copy of the graph could not be opened")
            return None
