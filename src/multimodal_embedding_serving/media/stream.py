"""A blocking generator awaited on an event loop: a thread runs it, a bounded queue lies between."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Executor, Future
from contextlib import aclosing
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def stream(
    make: Callable[[], Generator[T, None, None]],
    pool: Executor,
    *,
    ahead: int,
    stop: Callable[[], None] = lambda: None,
) -> AsyncGenerator[T, None]:
    """Yield what `make()` yields, one item at a time. As `stream_batches` otherwise."""
    async with aclosing(stream_batches(make, pool, ahead=ahead, size=1, stop=stop)) as batches:
        async for batch in batches:
            yield batch.pop()


async def stream_batches(
    make: Callable[[], Generator[T, None, None]],
    pool: Executor,
    *,
    ahead: int,
    size: int,
    stop: Callable[[], None] = lambda: None,
    close_timeout: float = 0.0,
) -> AsyncGenerator[list[T], None]:
    """Yield what `make()` yields, in lists of what is ready by then: 1 to `size` items.

    The generator runs on a thread of `pool`, at most `ahead` items in front. It is closed on that
    thread when the consumer stops, is cancelled, or closes this one; `stop()` is called then, from
    here, to end a step that may take long, and `close_timeout` seconds are allowed for it. An
    exception of the generator is raised here, after what it yielded before.
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
        while batch := await _next_batch(ready, room, done, size):
            yield batch
        await done
    finally:
        stopped.set()
        room.release()
        if close_timeout:
            await asyncio.wait([done], timeout=close_timeout)
        if not done.done():
            done.cancel()
            stop()


async def _next_batch(
    ready: asyncio.Queue[T | asyncio.Future[None]],
    room: threading.Semaphore,
    done: asyncio.Future[None],
    size: int,
) -> list[T]:
    """What is ready by now: 1 to `size` items; none once the generator has ended."""
    batch: list[T] = []
    while len(batch) < size and not (batch and ready.empty()):
        item = await ready.get()
        if item is done:
            ready.put_nowait(done)  # for the next call, if this one has items to return
            break
        room.release()
        batch.append(item)  # type: ignore[arg-type]  # only `done` is a future
        del item  # its memory may be needed for the next one
    return batch


class DaemonThread(Executor):
    """An executor that starts a thread for each call, for what may block for ever.

    A read from a terminal does; the threads of a ThreadPoolExecutor would keep the process alive.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # raised where the future is awaited, too
                future.set_exception(error)
                raise

        threading.Thread(target=run, name=self._name, daemon=True).start()
        return future


def _work(make: Callable[[], Generator[T, None, None]], enter: Callable[[T], bool]) -> None:
    with contextlib.closing(make()) as items:
        for item in items:
            if not enter(item):
                return
            del item  # its memory may be needed for the next one


def _read_error(done: asyncio.Future[Any]) -> None:
    """Retrieve a failure, lest asyncio log it: nobody awaits it once the consumer has stopped."""
    if not done.cancelled():
        done.exception()
