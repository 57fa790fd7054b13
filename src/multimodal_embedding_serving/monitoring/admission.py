"""Admission: what each client holds of a bounded resource, and who may take more of it.

A bound counts what is really held: items that are being prepared or computed, fetches and videos in
progress, bytes in memory (`monitoring.request`). When it is reached, a client that holds its share
or more, limit / (clients that hold or wait), is refused or waits, and one that holds less is
served: however much the others ask for, each client gets its share.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Protocol

from multimodal_embedding_serving.errors import QueueFull

Client = str | None
"""Who a request comes from; None: this process, which embeds without a server."""
Clock = Callable[[], float]

WINDOW_SECONDS = 10
"""The rate is that of the last ten seconds, and a client is active for as long."""
MAX_RETRY_SECONDS = 60
RESERVED_PART = 8
"""One in so many places of the queue is for interactive requests only."""


class Bound(Protocol):
    """What /metrics shows of a bound."""

    @property
    def limit(self) -> int: ...

    @property
    def held(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    @property
    def clients(self) -> int: ...


class Rate:
    """How much was released in the last ten seconds. Not thread-safe."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_second: deque[tuple[int, int]] = deque()
        self._released = 0
        self._busy_since = clock()

    def start(self) -> None:
        """Note that something is held again, after nothing was."""
        self._busy_since = self._clock()

    def add(self, amount: int) -> None:
        second = int(self._clock())
        self._drop_old(second)
        if self._by_second and self._by_second[-1][0] == second:
            second, before = self._by_second.pop()
            self._by_second.append((second, before + amount))
        else:
            self._by_second.append((second, amount))
        self._released += amount

    def seconds_for(self, amount: int) -> int:
        """Whole seconds, 1 to 60, until `amount` will have been released.

        If nothing was released in ten busy seconds, 60; if it has not been busy for long, 1.
        """
        now = self._clock()
        self._drop_old(int(now))
        busy = now - self._busy_since
        if not self._released:
            return MAX_RETRY_SECONDS if busy >= WINDOW_SECONDS else 1
        first = self._by_second[0][0]
        measured = min(max(now - first, 1.0), WINDOW_SECONDS)
        return min(max(ceil(amount * measured / self._released), 1), MAX_RETRY_SECONDS)

    def _drop_old(self, second: int) -> None:
        while self._by_second and self._by_second[0][0] <= second - WINDOW_SECONDS:
            self._released -= self._by_second.popleft()[1]


class Holdings:
    """How much of a limit each client holds. Not thread-safe."""

    def __init__(self, limit: int, clock: Clock) -> None:
        self.limit, self.total = limit, 0
        self.by_client: dict[Client, int] = {}
        self._rate = Rate(clock)

    def of(self, client: Client) -> int:
        return self.by_client.get(client, 0)

    def share(self, client: Client) -> float:
        """The limit divided by the clients that hold some of it, this one included."""
        return self.limit / (len(self.by_client) + (client not in self.by_client))

    def add(self, client: Client, amount: int) -> None:
        if not self.total:
            self._rate.start()
        self.by_client[client] = self.of(client) + amount
        self.total += amount

    def remove(self, client: Client, amount: int) -> None:
        self.by_client[client] -= amount
        if not self.by_client[client]:
            del self.by_client[client]
        self.total -= amount
        self._rate.add(amount)

    @property
    def retry_after(self) -> int:
        """Seconds until what is held now will have been released, at the present rate."""
        return self._rate.seconds_for(self.total)


class QueueBound:
    """Items that are being prepared, queued or computed. Thread-safe.

    One place in eight is reserved for interactive requests. A full queue serves a client that
    holds less than its share all the same: its total may exceed the limit by such shares.
    """

    waiting = 0

    def __init__(self, limit: int, clock: Clock = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._holdings = Holdings(limit, clock)
        self._left_at: OrderedDict[Client, float] = OrderedDict()

    @property
    def held(self) -> int:
        return self._holdings.total

    @property
    def clients(self) -> int:
        return len(self._holdings.by_client)

    def held_by(self, client: Client) -> int:
        return self._holdings.of(client)

    def enter(self, client: Client, count: int, *, interactive: bool) -> None:
        """Take `count` places. A request larger than the queue may enter if it is alone.

        Raises QueueFull.
        """
        with self._lock:
            holdings = self._holdings
            limit = self.limit - (0 if interactive else self.limit // RESERVED_PART)
            if holdings.total and holdings.total + count > limit:
                alone = holdings.total == holdings.of(client)
                if alone or holdings.of(client) >= holdings.share(client):
                    raise self._full(client, count)
            holdings.add(client, count)

    def leave(self, client: Client, count: int) -> None:
        """Give back `count` places."""
        with self._lock:
            self._holdings.remove(client, count)
            self._left_at[client] = self._clock()
            self._left_at.move_to_end(client)
            self._forget_inactive()

    def is_shared(self, client: Client) -> bool:
        """Whether other clients have been active in the last ten seconds."""
        with self._lock:
            self._forget_inactive()
            return any(
                len(clients) > (client in clients)
                for clients in (self._holdings.by_client, self._left_at)
            )

    def _forget_inactive(self) -> None:
        oldest = self._clock() - WINDOW_SECONDS
        while self._left_at and next(iter(self._left_at.values())) < oldest:
            self._left_at.popitem(last=False)

    def _full(self, client: Client, count: int) -> QueueFull:
        holdings = self._holdings
        return QueueFull(
            f"the queue has no room for {count:,} more items: {holdings.total:,} are in progress, "
            f"{holdings.of(client):,} of them this client's (limit: {self.limit:,}, "
            "EMBEDDING_QUEUE_LIMIT); retry later",
            retry_after=holdings.retry_after,
        )


class Admission:
    """The places of one request's items in the queue. For one event loop.

    A place that becomes free is kept for the request's next item, so that work that has begun is
    not refused half way. Once `end` says that no further items are expected, it is given back.
    """

    def __init__(self, bound: QueueBound, client: Client, *, interactive: bool) -> None:
        self._bound, self._client, self._interactive = bound, client, interactive
        self._held = self._occupied = self._expected = 0
        self._ended = False

    def reserve(self, count: int) -> None:
        """Take places for `count` items whose bytes are here already. Raises QueueFull."""
        if count > self._held:
            self._bound.enter(self._client, count - self._held, interactive=self._interactive)
            self._held = count

    def expect(self, count: int) -> None:
        """Note that `count` items will occupy places once their bytes are here."""
        self._expected += count

    @contextmanager
    def occupy(self, count: int) -> Iterator[None]:
        """Occupy the places of `count` expected items in the `with` block. Raises QueueFull."""
        self.reserve(self._occupied + count)
        self._occupied += count
        self._expected -= count
        try:
            yield
        finally:
            self._occupied -= count
            self._release_unused()

    def end(self) -> None:
        """Note that no more items are expected than those announced so far."""
        self._ended = True
        self._release_unused()

    def close(self) -> None:
        """Give back the places of items that are not going to come."""
        self._expected = 0
        self.end()

    def _release_unused(self) -> None:
        unused = self._held - self._occupied - self._expected
        if self._ended and unused > 0:
            self._held -= unused
            self._bound.leave(self._client, unused)


@dataclass(slots=True, eq=False)
class _Waiter:
    """A coroutine that waits for a slot."""

    number: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    granted: bool = False

    def wake(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


@dataclass(slots=True)
class _Line:
    """The waiters of one client, in order of arrival."""

    waiters: dict[_Waiter, None] = field(default_factory=dict)

    @property
    def first(self) -> _Waiter:
        return next(iter(self.waiters))


class SlotBound:
    """Slots for what runs concurrently: `limit` of them, at most `per_client` for one client.

    The rest wait in order of arrival; those of a client below its share go before those of one
    above it. May be used from several event loops at once.
    """

    def __init__(
        self, limit: int, per_client: int | None = None, clock: Clock = time.monotonic
    ) -> None:
        self.limit = limit
        self._per_client = limit if per_client is None else per_client
        self._lock = threading.Lock()
        self._holdings = Holdings(limit, clock)
        self._lines: dict[Client, _Line] = {}
        self._arrivals = 0

    @property
    def held(self) -> int:
        return self._holdings.total

    @property
    def clients(self) -> int:
        return len(self._holdings.by_client.keys() | self._lines.keys())

    @property
    def waiting(self) -> int:
        return sum(len(line.waiters) for line in list(self._lines.values()))

    @asynccontextmanager
    async def slot(self, client: Client) -> AsyncIterator[None]:
        """Wait for a slot, and hold it inside the `async with` block."""
        waiter = self._enter(client)
        if waiter is not None:
            try:
                await waiter.future
            except BaseException:
                self._abandon(client, waiter)
                raise
        try:
            yield
        finally:
            self._leave(client)

    def _enter(self, client: Client) -> _Waiter | None:
        """Take a slot, or stand in line."""
        loop = asyncio.get_running_loop()
        with self._lock:
            # Who waits while a slot is free waits for its own client's slots.
            if self._holdings.total < self.limit and self._may_hold_more(client):
                self._holdings.add(client, 1)
                return None
            self._arrivals += 1
            waiter = _Waiter(self._arrivals, loop, loop.create_future())
            self._lines.setdefault(client, _Line()).waiters[waiter] = None
            return waiter

    def _leave(self, client: Client) -> None:
        with self._lock:
            self._holdings.remove(client, 1)
            self._grant()

    def _abandon(self, client: Client, waiter: _Waiter) -> None:
        with self._lock:
            if waiter.granted:
                self._holdings.remove(client, 1)
                self._grant()
            else:
                self._drop(client, waiter)

    def _may_hold_more(self, client: Client) -> bool:
        allowed = self.limit if client is None else self._per_client
        return self._holdings.of(client) < allowed

    def _grant(self) -> None:
        """Give the free slots to those that are next."""
        while self._holdings.total < self.limit:
            clients = [client for client in self._lines if self._may_hold_more(client)]
            if not clients:
                return
            share = self.limit / self.clients
            client = min(
                clients,
                key=lambda each: (
                    self._holdings.of(each) >= share,
                    self._lines[each].first.number,
                ),
            )
            waiter = self._lines[client].first
            self._drop(client, waiter)
            waiter.granted = True
            self._holdings.add(client, 1)
            try:
                waiter.loop.call_soon_threadsafe(waiter.wake)
            except RuntimeError:  # its loop is closed: nothing waits any more
                self._holdings.remove(client, 1)

    def _drop(self, client: Client, waiter: _Waiter) -> None:
        line = self._lines[client]
        del line.waiters[waiter]
        if not line.waiters:
            del self._lines[client]
