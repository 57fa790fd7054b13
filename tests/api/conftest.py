"""Fixtures: a shared server for tests that only read, and servers of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import httpx2
import pytest

from tests.api.fakes import FakeServing, Start


@pytest.fixture(scope="session")
def serving() -> Iterator[FakeServing]:
    """A server with defaults, shared by the tests that leave it as it was."""
    shared = FakeServing()
    yield shared
    shared.stop()


@pytest.fixture
def http(serving: FakeServing) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=serving.url, timeout=20) as client:
        yield client


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes servers of a test's own: `start(("text",), queue_limit=4)`."""
    with ExitStack() as stack:

        def make(*arguments: object, **changes: object) -> FakeServing:
            server = FakeServing(*arguments, **changes)  # type: ignore[arg-type]
            stack.callback(server.stop)
            return server

        yield make
