"""Who goes first: interactive work before bulk, answering before computing."""

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
"""Computing yields to answering: /health must not wait for a processor that a graph holds."""
IMAGE_NICENESS = 10
"""Images come in bulk, and a text is waited for: it gets three quarters of what both want."""
REPLICA_NICENESS = 2
"""Interactive items that overtake bulk ones get two thirds of the processors, but for answering."""
MAX_NICENESS = 19


class Priority(IntEnum):
    """Interactive (few items) goes before bulk (many items, video)."""

    INTERACTIVE = 0
    BULK = 1


def lower_priority(niceness: int = WORKER_NICENESS) -> None:
    """Lower this thread's priority, and that of threads it starts, below the event loop's.

    By so much below the process's own, which may be a low one; never back up, which only a
    privileged process may. Where threads have no priority of their own (elsewhere than on Linux)
    this does nothing.
    """
    if sys.platform == "linux":
        process, thread = os.getpid(), threading.get_native_id()
        wanted = min(os.getpriority(os.PRIO_PROCESS, process) + niceness, MAX_NICENESS)
        if wanted > os.getpriority(os.PRIO_PROCESS, thread):
            os.setpriority(os.PRIO_PROCESS, thread, wanted)


class PriorityPool(ThreadPoolExecutor):
    """Threads: the next free one takes an interactive task before every waiting bulk task."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads, "prepare", lower_priority)
        self._tasks: dict[Priority, deque[Callable[[], None]]] = {
            priority: deque() for priority in Priority
        }

    def enter(self, priority: Priority, task: Callable[[], None]) -> None:
        """Queue a task, which tells its own outcome. Raises NotReady once shut down.

        Shut the pool down without `cancel_futures`: a queued task may be awaited.
        """
        self._tasks[priority].append(task)
        try:
            self.submit(self._run_first)
        except RuntimeError:
            raise NotReady("the model is closed") from None

    def _run_first(self) -> None:
        """As many runs as tasks, but each takes the task that is the most urgent by then."""
        for tasks in self._tasks.values():
            try:
                task = tasks.popleft()
            except IndexError:
                continue
            task()
            return
