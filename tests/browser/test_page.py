"""The page itself: errors, keys, keyboards, screens, a thousand images. Over fake graphs."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Progress
from tests.api.fakes import DIMENSION, FakeServing, Running, Start, fake_engine
from tests.browser.conftest import Open
from tests.browser.playground import Playground
from tests.fakes import PATIENCE, FakeGraph

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = pytest.mark.slow

MANY = 1000
PAGE_OF_RESULTS = 24
VIEWS = ("Ranking", "Video", "Map", "Matrix", "Code")
NAMELESS = re.compile(r"^\s*- (button|textbox|searchbox|combobox|slider|tab|img|link|video)(:|$)")


def write_images(folder: Path, count: int) -> list[Path]:
    """Small images, no two alike."""
    paths = []
    for number in range(count):
        out = io.BytesIO()
        Image.new("RGB", (8, 8), (number % 250, number // 250, 90)).save(out, "PNG")
        paths.append(folder / f"{number:04}.png")
        paths[-1].write_bytes(out.getvalue())
    return paths


def test_errors_of_one_kind_are_one_line_that_lists_its_files(
    quick: Playground, tmp_path: Path
) -> None:
    broken = [tmp_path / f"{number}.jpg" for number in range(40)]
    for path in broken:
        path.write_text(f"not an image: {path.name}")
    quick.add(*broken)
    quick.status("Embedded 0 of 40 items in")
    (line,) = quick.problems
    assert line.startswith("40 files: ")
    alert = quick.page.get_by_role("alert")
    assert not alert.get_by_text("17.jpg").is_visible()
    alert.get_by_text("40 files").click()
    assert alert.get_by_role("listitem").count() == 40
    assert alert.get_by_text("17.jpg").is_visible()


def test_failed_files_can_be_tried_again(visit: Open, fake: FakeServing, tmp_path: Path) -> None:
    page = visit(fake.url)
    refused = re.compile("/embeddings$")
    page.page.route(refused, lambda route: route.fulfill(status=500, json={"detail": "a bad day"}))
    page.add(*write_images(tmp_path, 3))
    assert [line.split("\n")[0] for line in page.problems] == ["3 files: a bad day (500)"]
    page.page.unroute(refused)
    page.page.get_by_role("button", name="Try again").click()
    page.status("Embedded 3 items in")
    assert page.problems == []
    assert len(page.ranked) == 3


def test_an_error_of_a_search_goes_with_the_next_one(visit: Open, fake: FakeServing) -> None:
    page = visit(fake.url)
    page.wait_until_ready()
    refused = re.compile("/embeddings$")
    page.page.route(refused, lambda route: route.fulfill(status=500, json={"detail": "a bad day"}))
    field = page.page.get_by_label("Describe what you are looking for")
    field.fill("a cat")
    field.press("Enter")
    page.page.get_by_text("A bad day (500).").wait_for()
    page.page.unroute(refused)
    page.describe("a cat")
    assert page.problems == []


def test_a_server_that_is_gone_keeps_the_queue(visit: Open, start: Start, tmp_path: Path) -> None:
    serving = start()
    page = visit(serving.url)
    page.wait_until_ready()
    serving.stop()
    page.page.locator("#files").set_input_files(write_images(tmp_path, 37))
    page.page.get_by_text("The server is gone: 0 of 37 embedded.").wait_for()
    assert page.problems == []
    page.page.get_by_role("button", name="Stop").click()
    page.status("Stopped: embedded 0 of 37 items")


def test_the_queue_goes_on_when_the_server_returns(
    visit: Open, fake: FakeServing, tmp_path: Path
) -> None:
    page = visit(fake.url)
    page.wait_until_ready()
    lost = re.compile("/(embeddings|ready)$")
    page.page.route(lost, lambda route: route.abort("connectionrefused"))
    page.page.locator("#files").set_input_files(write_images(tmp_path, 37))
    page.page.get_by_text("The server is gone: 0 of 37 embedded.").wait_for()
    page.page.unroute(lost)
    page.status("Embedded 37 items in")
    assert page.problems == []
    assert page.page.locator(".card").count() == PAGE_OF_RESULTS


def test_a_server_that_returns_with_another_model_is_told(
    visit: Open, fake: FakeServing, tmp_path: Path
) -> None:
    page = visit(fake.url)
    page.wait_until_ready()
    lost = re.compile("/(embeddings|ready)$")
    page.page.route(lost, lambda route: route.abort("connectionrefused"))
    page.page.locator("#files").set_input_files(write_images(tmp_path, 2))
    page.page.get_by_text("The server is gone: 0 of 2 embedded.").wait_for()
    other = {"model": "CLIP/other", "fingerprint": "07e4"}
    page.page.route("**/model/current", lambda route: route.fulfill(json=other))
    page.page.unroute(lost)
    page.page.get_by_text("The server now serves CLIP/other with other vectors").wait_for()
    assert page.ranked == []


def test_a_key_is_asked_for_until_it_is_right_and_forgotten_with_the_tab(
    visit: Open, start: Start, tmp_path: Path
) -> None:
    serving = start(api_keys=("right",))
    page = visit(serving.url)
    field = page.page.get_by_label("This server requires an API key")
    field.fill("wrong")
    field.press("Enter")
    page.status("The server rejected this key.")
    field.fill("right")
    field.press("Enter")
    page.wait_until_ready()
    assert not field.is_visible()
    page.add(*write_images(tmp_path, 2))
    page.describe("anything")
    assert len(page.ranked) == 2
    lines = page.show("Code").inner_text()
    assert 'Bearer $EMBEDDING_API_KEY"' in lines
    assert "right" not in lines
    assert page.page.evaluate("localStorage.length") == 0
    assert page.page.context.cookies() == []
    assert page.page.url == f"{serving.url}/"
    page.page.reload()  # the same tab: the key is still known
    page.wait_until_ready()


def test_a_thousand_images_are_ranked_page_by_page(quick: Playground, tmp_path: Path) -> None:
    page = quick.page
    page.locator("#files").set_input_files(write_images(tmp_path, MANY))
    quick.wait_until_embedded()
    quick.status(f"Embedded {MANY:,} items")
    quick.describe("anything")
    assert len(quick.ranked) == PAGE_OF_RESULTS
    first = quick.ranked
    page.get_by_text("1–24 of 1,000").wait_for()
    page.get_by_role("navigation", name="Pages of results").get_by_role(
        "button", name="Next"
    ).click()
    page.get_by_text("25–48 of 1,000").wait_for()
    assert not set(quick.ranked) & set(first)
    quick.describe("something else")  # begins at the first page again
    page.get_by_text("1–24 of 1,000").wait_for()
    matrix = quick.show("Matrix")
    assert matrix.locator("tbody td").count() == 2 * 24
    matrix.get_by_role("navigation", name="Pages of columns").get_by_text("of 1,000").wait_for()
    assert page.evaluate("document.querySelectorAll('*').length") < 2000


def test_a_dropped_folder_is_read_to_its_last_file(quick: Playground, tmp_path: Path) -> None:
    """A browser tells a hundred files of a folder at a time."""
    deepest = tmp_path / "photos" / "below" / "deeper"
    deepest.mkdir(parents=True)
    write_images(deepest, 130)
    (tmp_path / "photos" / "first.png").write_bytes((deepest / "0000.png").read_bytes())
    (deepest.parent / "notes.bin").write_text("not an image")
    quick.drop_folder(tmp_path / "photos")
    quick.status("Embedded 131 items")
    quick.status("Skipped: notes.bin (no image, video or text file).")
    quick.page.get_by_text("1–24 of 131").wait_for()
    names = quick.page.locator(".card .name").evaluate_all("all => all.map(each => each.title)")
    below = [f"photos/below/deeper/{number:04}.png" for number in range(PAGE_OF_RESULTS)]
    assert names == [*below, "photos/first.png"][:PAGE_OF_RESULTS]


def test_work_is_shown_as_it_goes_and_can_be_stopped(
    visit: Open, fake: FakeServing, tmp_path: Path
) -> None:
    fake.graphs["image"].hold()
    page = visit(fake.url)
    page.page.locator("#files").set_input_files(write_images(tmp_path, 200))
    bar = page.page.get_by_role("progressbar", name="Embedding")
    bar.wait_for()
    assert bar.get_attribute("max") == "200"
    page.page.get_by_text("0 of 200").wait_for()
    page.page.get_by_role("button", name="Stop").click()
    page.status("Stopped: embedded 0 of 200 items")
    fake.graphs["image"].release()
    assert page.ranked == []
    page.add(*sorted(tmp_path.glob("*.png"))[:3])  # what was given up may be added again
    assert len(page.ranked) == 3


def test_everything_is_done_by_the_keyboard(visit: Open, fake: FakeServing) -> None:
    page = visit(fake.url).page
    page.get_by_role("button", name="Try the samples").wait_for()
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the search field"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "by-image"
    page.keyboard.press("Tab")
    assert focused(page) == "Search"
    page.get_by_role("button", name="Try the samples").focus()
    page.keyboard.press("Enter")
    page.locator(".card.ranked").first.wait_for()
    page.locator("#progress").wait_for(state="hidden")
    page.get_by_role("tab", name="Ranking").focus()
    for key, name in (("ArrowRight", "Video"), ("End", "Code"), ("ArrowRight", "Ranking")):
        page.keyboard.press(key)
        assert focused(page) == name
        assert page.get_by_role("tabpanel", name=name).is_visible()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Tab")
    assert focused(page) == "Copy"
    page.get_by_role("button", name="a cat", exact=True).focus()
    page.keyboard.press("Space")
    page.locator("#descriptions [aria-pressed=true]", has_text="a cat").wait_for()
    assert focused(page) == "a cat"  # the focus stays


def focused(page: object) -> str:
    text: str = page.evaluate("document.activeElement.textContent.trim()")  # type: ignore[attr-defined]
    return text


def test_everything_that_can_be_used_has_a_name(quick: Playground) -> None:
    quick.try_samples()
    for view in VIEWS:
        quick.show(view)
        described = quick.page.locator("body").aria_snapshot()
        assert not [line for line in described.splitlines() if NAMELESS.match(line)], described


def test_samples_are_offered_when_they_can_be_had(visit: Open, fake: FakeServing) -> None:
    """A button that is seen answers: no click is lost before the samples' names are here."""
    page = visit(fake.url).page
    button = page.get_by_role("button", name="Try the samples")
    button.wait_for()
    seen: list[bool] = []

    def answer(route: Route) -> None:
        seen.append(button.is_visible())
        route.continue_()

    page.route("**/playground/samples.json", answer)
    page.reload()
    button.click()
    page.locator(".card", has_text="film.mp4").wait_for()
    assert seen == [False]


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_screen_needs_no_sideways_scrolling(
    visit: Open, fake: FakeServing, width: int
) -> None:
    page = visit(fake.url, viewport={"width": width, "height": 700})
    page.try_samples()
    for view in VIEWS:
        page.show(view)
        assert page.page.evaluate("document.documentElement.scrollWidth") <= width, view


@pytest.mark.parametrize(("scheme", "dark"), [("dark", True), ("light", False)])
def test_the_page_is_dark_where_the_system_is(
    visit: Open, fake: FakeServing, scheme: str, dark: bool
) -> None:
    page = visit(fake.url, color_scheme=scheme).page
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shades = [int(each) for each in re.findall(r"\d+", ground)]
    assert (sum(shades) < 3 * 64) == dark


def test_a_model_for_texts_offers_no_images(visit: Open, start: Start) -> None:
    page = visit(start(("text",)).url).page
    page.get_by_text("This model embeds texts only").wait_for()
    assert not page.get_by_role("button", name="Choose files").is_visible()
    assert not page.get_by_role("button", name="Try the samples").is_visible()
    assert page.get_by_role("button", name="Add texts").is_visible()


@pytest.fixture
def opening() -> Iterator[tuple[Running, threading.Event]]:
    """A server whose model is at 40 per cent until the event is set."""
    open_now = threading.Event()

    def factory(settings: Settings, progress: Progress, metrics: Metrics) -> Engine:
        progress("converting the image tower", 0.4)
        assert open_now.wait(PATIENCE * 3)
        return fake_engine(settings, {"text": FakeGraph(DIMENSION)}, metrics)

    running = Running(Settings.from_env({}), factory)
    yield running, open_now
    open_now.set()
    running.stop()


def test_a_server_that_is_not_ready_says_how_far_it_is(
    visit: Open, opening: tuple[Running, threading.Event]
) -> None:
    running, open_now = opening
    page = visit(running.url)
    page.status("converting the image tower")
    open_now.set()
    page.wait_until_ready()
