"""The interactive replica: a second copy of a graph, for interactive items that bulk blocks.

A call of a graph can't be interrupted, and a long one blocks everything behind it. So if every
worker is busy, at least one of them with bulk, a copy of the graph computes the interactive items,
on a thread of its own. The copy is opened when it is first needed; the two share the processors
from then on.
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
"""Opens a copy of the graph; returns None if there is no memory for one."""


class Compute(Protocol):
    """The part of a batcher that computes a batch."""

    def run(self, batch: Sequence[Entry]) -> None:
        """Compute and answer a batch on the batcher's own graph."""
        ...

    def try_run(self, batch: Sequence[Entry], graph: Graph) -> bool:
        """Compute and answer a batch on another graph; False, without answers, if that fails."""
        ...


class Replica(threading.Thread):
    """The replica's thread. Ends if the copy can't be opened or fails, and once all is closed."""

    def __init__(
        self, schedule: Schedule, compute: Compute, open_replica: OpenReplica, *, name: str
    ) -> None:
        super().__init__(name=f"{name}-replica", daemon=True)
        self._schedule, self._compute, self._open_replica = schedule, compute, open_replica

    def run(self) -> None:
        lower_priority(REPLICA_NICENESS)
        if not self._schedule.wait_until_blocked():
            return
        # Opening a copy occupies the processors for a second or so: only bulk has to wait for it.
        with self._schedule.pause_bulk():
            graph = self._open()
        if graph is None:
            return
        while (batch := self._schedule.take_blocked()) is not None:
            if batch and not self._compute.try_run(batch, graph):
                log.error(
                    "the interactive replica failed and is closed; "
                    "retrying its batch of %d items on the main graph",
                    len(batch),
                )
                self._compute.run(batch)
                break
        graph.close()

    def _open(self) -> Graph | None:
        try:
            return self._open_replica()
        except Exception:
            log.exception("could not open the interactive replica; continuing without one")
            return None
