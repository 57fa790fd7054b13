"""A browser for these tests, and pages that must be quiet and stay with their server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.conftest import start as start  # a fixture of this folder too
from tests.api.fakes import FakeServing, Start
from tests.browser.chromium import open_chromium
from tests.browser.playground import Playground
from tests.serving import Running

if TYPE_CHECKING:
    from playwright.sync_api import Browser

log = logging.getLogger(__name__)

Open = Callable[..., Playground]


# For this folder only: Playwright keeps an event loop running on this thread, in which other
# folders' async tests can't run.
@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    with open_chromium() as browser:
        yield browser


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Open]:
    """Opens a server's playground: `visit(url, viewport=…, color_scheme="dark")`."""
    opened: list[Playground] = []
    contexts = []

    def open_page(url: str, **options: Any) -> Playground:
        context = chromium.new_context(reduced_motion="reduce", **options)
        contexts.append(context)
        opened.append(Playground(context.new_page(), url))
        return opened[-1]

    yield open_page
    for each in opened:
        log.warning("the page said: %s", each.said)  # shown of a test that fails
    for context in contexts:
        context.close()
    for each in opened:
        assert not each.complaints
        assert len(each.hosts) == 1, "the page asked another host"


@pytest.fixture
def playground(visit: Open, server: Running) -> Iterator[Playground]:
    """A page of a server with the embedded model."""
    yield visit(server.url)
    log.warning("the server said:\n%s", "".join(server.log[-40:]))


@pytest.fixture
def fake(start: Start) -> FakeServing:
    """A server over fake graphs: fast, and meaningless."""
    return start()


@pytest.fixture
def quick(visit: Open, fake: FakeServing) -> Playground:
    """A page of a server over fake graphs."""
    return visit(fake.url)
