"""axe-core finds no violation in any state of the pages, in the light and in the dark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.fakes import FakeServing, Start
from tests.browser.conftest import Open
from tests.browser.playground import Playground
from tests.browser.test_page import VIEWS, write_images

pytestmark = pytest.mark.slow

AXE = Path(__file__).parent.parent.parent / ".node" / "node_modules" / "axe-core" / "axe.min.js"
RUN = """async () => {
  const { violations } = await axe.run(document, { resultTypes: ["violations"] });
  return violations.map(({ id, help, nodes }) =>
    `${id}: ${help}: ${nodes.map(node => node.target.join(" ")).join(", ")}`);
}"""

Check = Callable[[Playground], list[str]]


@pytest.fixture(scope="module")
def check() -> Check:
    """The violations in what a page shows now."""
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: apt-get install npm; make .node/.made")
    source = AXE.read_text("utf-8")

    def violations(playground: Playground) -> list[str]:
        page: Any = playground.page
        page.evaluate(f"() => {{ if (!window.axe) {{ {source} }} }}")
        found: list[str] = page.evaluate(RUN)
        return found

    return violations


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_playground_has_no_violation(
    visit: Open, fake: FakeServing, tmp_path: Path, check: Check, scheme: str
) -> None:
    page = visit(fake.url, color_scheme=scheme)
    page.page.get_by_role("button", name="Try the samples").wait_for()
    assert check(page) == [], "empty"
    broken = tmp_path / "broken.jpg"
    broken.write_text("not an image")
    page.add(broken)
    page.try_samples()
    page.page.get_by_role("button", name="Add texts").click()
    for view in VIEWS:
        page.show(view)
        assert check(page) == [], view
    page.show("Ranking")
    page.page.get_by_role("button", name="View cat.jpg").click()
    page.page.get_by_role("dialog").get_by_role("img").wait_for()
    assert check(page) == [], "viewer"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_phone_the_key_and_a_lost_server_have_no_violation(
    visit: Open, start: Start, tmp_path: Path, check: Check, scheme: str
) -> None:
    serving = start(api_keys=("key",))
    page = visit(serving.url, color_scheme=scheme, viewport={"width": 390, "height": 844})
    field = page.page.get_by_label("This server requires an API key")
    field.wait_for()
    assert check(page) == [], "key"
    field.fill("key")
    field.press("Enter")
    page.wait_until_ready()
    page.add(*write_images(tmp_path, 3))
    page.describe("a cat")
    assert check(page) == [], "results"
    serving.stop()
    (tmp_path / "more").mkdir()
    page.page.locator("#files").set_input_files(write_images(tmp_path / "more", 2))
    page.page.get_by_text("The server is gone: 0 of 2 embedded.").wait_for()
    assert check(page) == [], "server gone"
