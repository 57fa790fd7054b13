"""The API page as a person uses it: enter a key, send an example, read the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.api.fakes import FakeServing, Start
from tests.browser.conftest import Open

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.slow


def operation(page: Page, path: str) -> Locator:
    """An operation, unfolded."""
    block = page.locator(".opblock", has=page.locator(f'[data-path="{path}"]')).first
    block.locator(".opblock-summary-control").click()
    return block


def status_of(block: Locator) -> str:
    block.get_by_role("button", name="Execute").click()
    text: str = block.locator(".live-responses-table .response-col_status").nth(1).inner_text()
    return text.split()[0]


def test_an_example_is_sent_with_a_key(visit: Open, start: Start) -> None:
    page = visit(f"{start(api_keys=('right',)).url}/docs").page
    block = operation(page, "/embeddings")
    assert status_of(block) == "401"
    page.get_by_role("button", name="Authorize").first.click()
    dialog = page.locator(".auth-container")
    dialog.get_by_role("textbox").fill("right")
    dialog.get_by_role("button", name="Apply credentials").or_(
        dialog.get_by_role("button", name="Authorize")
    ).click()
    page.get_by_role("button", name="Close").click()
    block.get_by_role("button", name="Clear").click()
    assert status_of(block) == "200"
    assert '"embedding"' in block.locator(".live-responses-table").inner_text()
    assert "Bearer right" in block.locator(".curl").inner_text()


def test_every_example_can_be_chosen(visit: Open, fake: FakeServing) -> None:
    page = visit(f"{fake.url}/docs").page
    block = operation(page, "/v2/embed")
    choice = block.locator(".examples-select-element")
    assert choice.locator("option").count() == 3
    choice.select_option(index=1)
    assert "ubinary" in block.locator("textarea").input_value()
    assert status_of(block) == "200"


def test_the_key_of_the_playground_is_used(visit: Open, start: Start) -> None:
    playground = visit(start(api_keys=("right",)).url)
    field = playground.page.get_by_label("This server requires an API key")
    field.fill("right")
    field.press("Enter")
    playground.wait_until_ready()
    playground.page.get_by_role("link", name="API").click()
    assert status_of(operation(playground.page, "/model/current")) == "200"


@pytest.mark.parametrize(("scheme", "dark"), [("dark", True), ("light", False)])
def test_it_is_dark_where_the_system_is(
    visit: Open, fake: FakeServing, scheme: str, dark: bool
) -> None:
    page = visit(f"{fake.url}/docs", color_scheme=scheme).page
    page.get_by_text("Embed a text, image or video").wait_for()
    is_dark = page.evaluate("document.documentElement.classList.contains('dark-mode')")
    assert is_dark == dark
