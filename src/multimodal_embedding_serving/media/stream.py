"""A blocking generator awaited on an event loop: a thread runs it, a bounded queue lies between."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Executor
from typing import Any, TypeVar

T = TypeVar("T")


async def stream(
    make: Callable[[], Generator[T, None, None]],
    pool: Executor,
    *,
    ahead: int,
    stop: Callable[[], None] = lambda: None,
) -> AsyncGenerator[T, None]:
    """Yield what `make()` yields, which runs on a thread of `pool` at most `ahead` items in front.

    The generator is closed on its own thread when the consumer stops, is cancelled, or closes
    this one; `stop()` is called then, from here, to end a step that may take long. An exception of
    the generator is raised here, after what it yielded before.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[T | asyncio.Future[None]] = asyncio.Queue()
    room = threading.Semaphore(ahead)
    stopped = threading.Event()

    def enter(item: T) -> bool:
        room.acquire()
        if stopped.is_set():
            return False
        loop.call_soon_threadsafe(ready.put_nowait, item)
        return True

    done = loop.run_in_executor(pool, _work, make, enter)
    done.add_done_callback(ready.put_nowait)
    done.add_done_callback(_read_error)
    try:
        while (item := await ready.get()) is not done:
            room.release()
            yield item  # type: ignore[misc]  # only `done` is a future
        await done
    finally:
        stopped.set()
        room.release()
        if not done.done():
            done.cancel()
            stop()


def _work(make: Callable[[], Generator[T, None, None]], enter: Callable[[T], bool]) -> None:
    with contextlib.closing(make()) as items:
        for item in items:
            if not enter(item):
                return
            del item  # its memory may be needed for the next one


def _read_error(done: asyncio.Future[Any]) -> None:
    """Mark a failure as seen: nobody awaits it when the consumer has stopped before."""
    if not done.cancelled():
        done.exception()
