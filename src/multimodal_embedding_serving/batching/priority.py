"""Priorities: interactive work before bulk, answering requests before computing."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import IntEnum

from multimodal_embedding_serving.errors import NotReady
from multimodal_embedding_serving.monitoring.admission import Client

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
    """Threads in which interactive tasks run before waiting bulk tasks, and clients take turns.

    One thread more than `threads` is reserved for interactive tasks of clients that have no task
    running: a text need not wait until a thread has decoded another client's large image.
    """

    def __init__(self, threads: int) -> None:
        super().__init__(threads + 1, "prepare", lower_priority)
        self._shared_threads = threads
        self._lock = threading.Lock()
        self._waiting: dict[Priority, OrderedDict[Client, deque[Callable[[], None]]]] = {
            priority: OrderedDict() for priority in Priority
        }
        self._running: Counter[Client] = Counter()

    def enter(self, priority: Priority, task: Callable[[], None], client: Client = None) -> None:
        """Queue a task, which reports its own outcome. Raises NotReady once shut down.

        Shut the pool down without `cancel_futures`: a caller may be awaiting a queued task.
        """
        with self._lock:
            self._waiting[priority].setdefault(client, deque()).append(task)
        try:
            self.submit(self._run_waiting)
        except RuntimeError:
            raise NotReady("the model is closed") from None

    def _run_waiting(self) -> None:
        """Run the tasks that are most urgent by now; called once for each task.

        It finds none if the task has run elsewhere, or if it has to wait for one that is running:
        the thread of that one runs it next.
        """
        while (taken := self._take()) is not None:
            client, task = taken
            with suppress(BaseException):  # the task has reported it
                task()
            del task, taken  # what it holds is not kept while the next one is awaited
            with self._lock:
                self._running[client] -= 1
                if not self._running[client]:
                    del self._running[client]

    def _take(self) -> tuple[Client, Callable[[], None]] | None:
        with self._lock:
            shared = self._running.total() < self._shared_threads
            for priority in Priority if shared else (Priority.INTERACTIVE,):
                by_client = self._waiting[priority]
                for client, tasks in by_client.items():
                    if shared or client not in self._running:
                        task = tasks.popleft()
                        by_client.move_to_end(client)
                        if not tasks:
                            del by_client[client]
                        self._running[client] += 1
                        return client, task
        return None
