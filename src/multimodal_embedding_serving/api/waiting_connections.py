"""The connections that wait for their clients: those that make way when there are too many.

Idle ones, without a byte of a further request, go first, then those in the middle of a request's
headers or body. Of each, the one goes that has waited longest, of the address with the most of
them: a thousand idle connections do not close the one of a client at another address.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

C = TypeVar("C", bound=Hashable)

Stage = dict[str, dict[C, None]]
"""Address -> its connections, the one that has waited longest first."""


class WaitingConnections(Generic[C]):
    """The idle and the receiving connections of one server. For one event loop."""

    def __init__(self) -> None:
        self._idle: Stage[C] = {}
        self._receiving: Stage[C] = {}

    def is_idle(self, connection: C, address: str) -> bool:
        return connection in self._idle.get(address, ())

    def add_idle(self, connection: C, address: str) -> None:
        """The connection waits for a request."""
        self._move(connection, address, self._idle)

    def add_receiving(self, connection: C, address: str) -> None:
        """The connection waits for the rest of a request."""
        self._move(connection, address, self._receiving)

    def discard(self, connection: C, address: str) -> None:
        """The connection waits no more: its request is complete, or it is closed."""
        for stage in (self._idle, self._receiving):
            connections = stage.get(address)
            if connections is not None and connection in connections:
                del connections[connection]
                if not connections:
                    del stage[address]

    def next_to_close(self) -> C | None:
        """The connection that makes way for a new one; None if all are at work."""
        for stage in (self._idle, self._receiving):
            if stage:
                fullest = max(stage.values(), key=len)
                return next(iter(fullest))
        return None

    def _move(self, connection: C, address: str, stage: Stage[C]) -> None:
        self.discard(connection, address)
        stage.setdefault(address, {})[connection] = None
