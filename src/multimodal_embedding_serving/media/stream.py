"""Awaits a blocking generator on an event loop: a thread runs it and fills a bounded queue."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Executor, Future
from contextlib import aclosing
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def stream(
    make: Callable[[], Generator[T, None, None]],
    pool: Executor,
    *,
    ahead: int,
    stop: Callable[[], None] = lambda: None,
) -> AsyncGenerator[T, None]:
    """Yield the items of `make()` one at a time; otherwise like `stream_batches`."""
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
    """Yield the items of `make()` in lists of those that are ready: 1 to `size` items.

    The generator runs on a thread of `pool`, at most `ahead` items ahead. When the consumer stops,
    is canceled or closes this generator, it is closed on its thread: within `close_timeout` seconds
    on its own, and after that with the help of `stop()`, which is called here to end a long step.
    An exception of the generator is raised here, after the items that it yielded before.
    """
    feed: _Feed[T] = _Feed(ahead)
    done = asyncio.get_running_loop().run_in_executor(pool, feed.run, make)
    done.add_done_callback(feed.ready.put_nowait)
    done.add_done_callback(_read_error)
    try:
        ended = False
        while not ended:
            batch, ended = await feed.take(size, done)
            if batch:
                yield batch
        await done
    finally:
        feed.stop()
        if close_timeout:
            await asyncio.wait([done], timeout=close_timeout)
        if not done.done():
            done.cancel()
            stop()


class _Feed(Generic[T]):
    """The bounded queue between the generator's thread and the event loop."""

    def __init__(self, ahead: int) -> None:
        self.ready: asyncio.Queue[T | asyncio.Future[None]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._room = threading.Semaphore(ahead)
        self._stopped = threading.Event()

    def run(self, make: Callable[[], Generator[T, None, None]]) -> None:
        """On the thread: run the generator; close it once `stop` has been called."""
        with contextlib.closing(make()) as items:
            for item in items:
                self._room.acquire()
                if self._stopped.is_set():
                    return
                self._loop.call_soon_threadsafe(self.ready.put_nowait, item)
                del item  # the next item may need its memory

    async def take(self, size: int, done: asyncio.Future[None]) -> tuple[list[T], bool]:
        """Wait for an item, then take all that are ready; the flag is True once `done` arrives."""
        batch: list[T] = []
        while len(batch) < size and not (batch and self.ready.empty()):
            item = await self.ready.get()
            if item is done:
                return batch, True
            self._room.release()
            batch.append(item)  # type: ignore[arg-type]  # only `done` is a future
        return batch, False

    def stop(self) -> None:
        self._stopped.set()
        self._room.release()


class DaemonThread(Executor):
    """An executor that starts a daemon thread per call, for calls that may block for ever.

    A read from a terminal may; a ThreadPoolExecutor's threads would keep the process alive.
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


def _read_error(done: asyncio.Future[Any]) -> None:
    """Retrieve the exception, so that asyncio does not log it if the consumer has stopped."""
    if not done.cancelled():
        done.exception()
