"""Priorities: interactive work before bulk, answering requests before computing."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum

from multimodal_embedding_serving.errors import NotReady

WORKER_NICENESS = 5
"""Computing yields to answering: /health must not wait for a CPU that a graph occupies."""
IMAGE_NICENESS = 10
"""Images come in bulk, while somebody waits for a text: texts get three quarters of the CPU time
that both compete for."""
REPLICA_NICENESS = 2
"""Interactive items that overtake bulk ones get two thirds of the CPU time, after answering."""
MAX_NICENESS = 19


class Priority(IntEnum):
    """Interactive (few items) goes before bulk (many items, video)."""

    INTERACTIVE = 0
    BULK = 1


def lower_priority(niceness: int = WORKER_NICENESS) -> None:
    """Lower the priority of this thread, and of threads that it starts, below the event loop's.

    `niceness` is relative to the process's own, which may be low already. The priority is never
    raised again: only a privileged process may do that. Does nothing where threads have no priority
    of their own (elsewhere than on Linux).
    """
    if sys.platform == "linux":
        process, thread = os.getpid(), threading.get_native_id()
        target = min(os.getpriority(os.PRIO_PROCESS, process) + niceness, MAX_NICENESS)
        if target > os.getpriority(os.PRIO_PROCESS, thread):
            os.setpriority(os.PRIO_PROCESS, thread, target)


class PriorityPool(ThreadPoolExecutor):
    """A thread pool in which interactive tasks run before all waiting bulk tasks."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, "prepare", lower_priority)
        self._tasks: dict[Priority, deque[Callable[[], None]]] = {
            priority: deque() for priority in Priority
        }

    def enter(self, priority: Priority, task: Callable[[], None]) -> None:
        """Queue a task, which reports its own outcome. Raises NotReady once shut down.

        Shut the pool down without `cancel_futures`: a caller may be awaiting a queued task.
        """
        self._tasks[priority].append(task)
        try:
            self.submit(self._run_first)
        except RuntimeError:
            raise NotReady("the model is closed") from None

    def _run_first(self) -> None:
        """Run the task that is most urgent by now; there is one such call for each task."""
        for tasks in self._tasks.values():
            try:
                task = tasks.popleft()
            except IndexError:
                continue
            task()
            return
