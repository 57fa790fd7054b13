"""An iterable that blocks, read by an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

JOIN = 1.0
"""Seconds that a stopped thread is waited for; one that reads a terminal may never come back."""


class Lookahead(Generic[T]):
    """Reads on a thread of its own, at most `most` items ahead of whoever takes them."""

    def __init__(self, items: Iterable[T], most: int) -> None:
        self._items, self._most = items, most
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._changed = threading.Condition()
        self._waiting: list[T] = []
        self._ended = self._stopped = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="listing", daemon=True)
        self._thread.start()

    async def take(self) -> list[T]:
        """Whatever has been read since, one item at least; empty at the end.

        Raises what the iterable raised, once what came before is taken.
        """
        await self._arrived.wait()
        with self._changed:
            taken, self._waiting = self._waiting, []
            if not self._ended:
                self._arrived.clear()
            self._changed.notify()
        if not taken and self._failure is not None:
            raise self._failure
        return taken

    async def stop(self) -> None:
        """Read no further than the item that is being read."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, JOIN)

    def _read(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    self._changed.wait_for(lambda: self._stopped or len(self._waiting) < self._most)
                    if self._stopped:
                        return
                    self._waiting.append(item)
                    first = len(self._waiting) == 1
                if first:
                    self._tell()
        except BaseException as failure:  # to be raised where the items are taken, too
            self._failure = failure
            raise
        finally:
            self._ended = True
            self._tell()

    def _tell(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody takes any more
            self._loop.call_soon_threadsafe(self._arrived.set)
