"""What a person does with a collection: look, search in other ways, come back. Over fake graphs."""

from __future__ import annotations

import base64
import math
from pathlib import Path

import pytest

from tests.api.fakes import FakeServing, Start
from tests.browser.conftest import Open
from tests.browser.playground import Playground
from tests.browser.test_page import focused, write_images

pytestmark = pytest.mark.slow

PHONE = {"width": 390, "height": 844}


def encoded(path: Path, name: str = "") -> tuple[str, str, str]:
    return name or path.name, "image/png", base64.b64encode(path.read_bytes()).decode()


def test_on_a_phone_results_are_on_the_first_screen(
    visit: Open, fake: FakeServing, tmp_path: Path
) -> None:
    page = visit(fake.url, viewport=PHONE, has_touch=True, is_mobile=True)
    page.add(*write_images(tmp_path, 60))
    page.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    page.describe("a red square")
    page.page.locator(".match", has_text="%").first.wait_for()
    page.page.wait_for_function("document.querySelector('.card').getBoundingClientRect().top > 0")
    boxes = [card.bounding_box() for card in page.page.locator(".card").all()]
    on_screen = [box for box in boxes if box and box["y"] > 0 and box["y"] + box["height"] < 844]
    assert len(on_screen) >= 4
    field = page.page.get_by_label("Describe what you are looking for").bounding_box()
    assert field is not None
    assert 0 <= field["y"] < 160
    for name in (".score", ".match", ".title nav"):
        heights = page.page.locator(name).evaluate_all(
            "all => all.map(each => each.getClientRects()[0].height)"
        )
        assert max(heights) < 40, name  # one line
    assert page.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.mark.parametrize(("bias", "fits"), [(2.0, True), (-40.0, False)])
def test_a_models_own_probability_is_shown(
    visit: Open, start: Start, tmp_path: Path, bias: float, fits: bool
) -> None:
    page = visit(start(facts={"logit_scale": 3.0, "logit_bias": bias}).url)
    page.add(*write_images(tmp_path, 5))
    page.describe("a cat")
    expected = [100 / (1 + math.exp(-(3 * score + bias))) for score in page.scores]
    for match, right in zip(page.matches, expected, strict=True):
        assert match == "<1%" if right < 1 else abs(int(match.rstrip("%")) - right) <= 1
    assert page.page.get_by_text("Nothing fits “a cat” well.").is_visible() != fits
    page.page.get_by_text("What do the numbers mean?").click()
    assert page.page.get_by_text("the probability that the model assigns").is_visible()


def test_an_item_is_viewed_with_keys(quick: Playground, tmp_path: Path) -> None:
    quick.add(*write_images(tmp_path, 4))
    page, names = quick.page, quick.ranked
    view = page.get_by_role("button", name=f"View {names[1]}")
    view.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("img", name=names[1]).wait_for()
    for key, place in (("ArrowRight", 2), ("End", 3), ("ArrowRight", 3), ("ArrowLeft", 2)):
        page.keyboard.press(key)
        dialog.get_by_role("img", name=names[place]).wait_for()
        assert dialog.get_by_text(f"{place + 1} of 4").is_visible()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.ariaLabel") == f"View {names[1]}"
    view.click()
    dialog.get_by_role("button", name="More like this").click()
    page.get_by_text(f"3 results similar to {names[1]}").wait_for()


def test_a_video_is_viewed_at_its_best_moment(quick: Playground, samples: Path) -> None:
    quick.add(samples / "film.mp4")
    quick.describe("a rocket")
    best = quick.page.get_by_role("button", name="Best at ").inner_text().removeprefix("Best at ")
    quick.page.get_by_role("button", name="View film.mp4").click()
    video = quick.page.get_by_role("dialog").locator("video")
    minutes, seconds = best.split(":")
    expected = 60 * int(minutes) + float(seconds)
    quick.page.wait_for_function(
        "time => Math.abs(document.querySelector('dialog video').currentTime - time) < .1",
        arg=expected,
    )
    quick.page.get_by_role("button", name="Close").click()
    assert video.count() == 0  # it does not play on unseen


def test_typing_searches(quick: Playground, tmp_path: Path) -> None:
    quick.add(*write_images(tmp_path, 3))
    field = quick.page.get_by_label("Describe what you are looking for")
    field.press_sequentially("a cat on")
    quick.page.get_by_text("3 results for “a cat on”").or_(
        quick.page.get_by_text("Nothing fits “a cat on” well")
    ).wait_for()
    assert quick.page.locator("#descriptions li").count() == 0  # nothing is kept of it
    assert field.input_value() == "a cat on"
    field.fill("")
    quick.page.get_by_text("3 items, not ranked yet").wait_for()
    field.fill("a cat")
    field.press("Enter")
    quick.page.locator("#descriptions li", has_text="a cat").wait_for()


@pytest.mark.parametrize("way", ["button", "drop", "paste"])
def test_an_image_is_a_query(quick: Playground, tmp_path: Path, way: str) -> None:
    paths = write_images(tmp_path, 4)
    quick.add(*paths[:3])
    if way == "button":
        with quick.page.expect_file_chooser() as chooser:
            quick.page.get_by_role("button", name="Search by image").click()
        chooser.value.set_files(paths[3])
    elif way == "drop":
        quick.drop(encoded(paths[3]), on="#description")
    else:
        quick.paste(encoded(paths[3]), on="#description")
    quick.page.get_by_text(f"3 results similar to {paths[3].name}").wait_for()
    assert len(quick.ranked) == 3  # it is no part of the collection
    quick.page.get_by_role("button", name=f"Remove “Like {paths[3].name}”").click()
    quick.page.get_by_text("3 items, not ranked yet").wait_for()


def test_pasted_files_are_added(quick: Playground, tmp_path: Path) -> None:
    (path,) = write_images(tmp_path, 1)
    quick.wait_until_ready()
    quick.paste(encoded(path, "image.png"))
    quick.card("image.png").wait_for()


def test_a_dropped_text_file_becomes_texts(quick: Playground) -> None:
    text = base64.b64encode(b"first line\nsecond line\n").decode()
    quick.wait_until_ready()
    quick.drop(("notes.txt", "text/plain", text))
    quick.status("Embedded 2 items")
    assert quick.page.locator(".card .words").all_inner_texts() == ["first line", "second line"]


def test_the_collection_is_there_after_a_reload_and_gone_once_removed(
    visit: Open, fake: FakeServing, tmp_path: Path, samples: Path
) -> None:
    page = visit(fake.url)
    page.add(*write_images(tmp_path, 30), samples / "film.mp4")
    page.describe("a red square")
    before = (page.ranked, page.scores)
    page.page.reload()
    page.status("31 items kept from your last visit.")
    page.page.get_by_role("button", name="a red square", exact=True).click()
    page.page.locator(".card.ranked").first.wait_for()
    assert (page.ranked, page.scores) == before
    page.page.wait_for_function("() => !document.querySelector('.card [data-blank]')")
    page.page.get_by_role("button", name="Remove all").click()
    page.page.get_by_role("button", name="Remove “a red square”").click()
    page.page.reload()
    page.wait_until_ready()
    page.page.get_by_role("button", name="Try the samples").wait_for()
    assert page.ranked == []
    assert page.page.locator("#descriptions li").count() == 0


def test_vectors_of_another_model_are_not_shown(visit: Open, start: Start, tmp_path: Path) -> None:
    """Two servers, one after the other, at one address: another fingerprint, another collection."""
    page = visit(start().url)
    page.add(*write_images(tmp_path, 2))
    facts = page.page.evaluate("fetch('model/current').then(response => response.json())")
    other = {**facts, "fingerprint": "07e4"}
    page.page.route("**/model/current", lambda route: route.fulfill(json=other))
    page.page.reload()
    page.page.get_by_role("button", name="Try the samples").wait_for()
    assert page.ranked == []
    page.page.unroute("**/model/current")
    page.page.reload()
    page.status("2 items kept from your last visit.")


def test_a_browser_without_storage_is_told_and_works(
    visit: Open, fake: FakeServing, tmp_path: Path
) -> None:
    page = visit(fake.url)
    page.page.add_init_script("IDBFactory.prototype.open = () => { throw new Error('blocked'); }")
    page.page.reload()
    page.status("This browser does not keep the collection")
    page.add(*write_images(tmp_path, 2))
    assert len(page.ranked) == 2


def test_the_map_has_every_item_and_is_walked_by_the_arrows(
    quick: Playground, tmp_path: Path
) -> None:
    quick.add(*write_images(tmp_path, 12))
    panel = quick.show("Map")
    panel.get_by_text("12 items: the closer, the more similar").wait_for()
    points = panel.locator(".point")
    assert points.count() == 12
    places = points.evaluate_all("all => all.map(each => each.getBoundingClientRect().x)")
    assert len(set(places)) > 3
    quick.page.get_by_role("tab", name="Map").focus()
    quick.page.keyboard.press("Tab")
    seen = set()
    for key in ("ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp") * 2:
        seen.add(quick.page.evaluate("document.activeElement.ariaLabel"))
        quick.page.keyboard.press(key)
    assert len(seen) > 1
    assert all(name.startswith("View ") for name in seen)
    quick.page.keyboard.press("Enter")
    quick.page.get_by_role("dialog").wait_for()


def test_the_page_names_the_product(quick: Playground) -> None:
    assert quick.page.title() == "Multimodal Embedding Serving · Playground"
    assert "Multimodal Embedding Serving" in quick.page.get_by_role("heading", level=1).inner_text()
    quick.page.get_by_role("link", name="API").click()
    quick.page.get_by_text("/v1/embeddings").first.wait_for()


def test_dismissing_an_error_leaves_the_focus_in_the_field(
    quick: Playground, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_text("not an image")
    quick.add(broken)
    quick.page.get_by_role("button", name="Dismiss").focus()
    assert focused(quick.page) == "Dismiss"
    quick.page.keyboard.press("Enter")
    assert quick.page.evaluate("document.activeElement.id") == "description"
    assert quick.problems == []
