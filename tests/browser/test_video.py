"""A video's similarity to a description over time, with the embedded model, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.playground import Playground

if TYPE_CHECKING:
    from playwright.sync_api import Locator

pytestmark = pytest.mark.slow

FRAMES = 32
PAINTED = """canvas => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(data).size;
}"""


@pytest.fixture
def panel(playground: Playground, samples: Path) -> Locator:
    """The panel, with the sample video and a description."""
    playground.add(samples / "film.mp4")
    playground.describe("a cat")
    return playground.show("Video")


def test_every_frame_has_its_image(panel: Locator) -> None:
    panel.page.wait_for_function(
        "count => document.querySelectorAll('.strip canvas[data-shown]').length === count",
        arg=FRAMES,
    )
    for place in (0, FRAMES // 2, FRAMES - 1):
        assert panel.locator(".strip canvas").nth(place).evaluate(PAINTED) > 20


def test_a_frame_is_a_button_that_jumps_there(panel: Locator) -> None:
    button = panel.locator(".strip button").nth(20)
    label = button.text_content() or ""
    button.click()
    expect_moment(panel, float(label.split(",")[0].split(":")[1]))
    assert button.get_attribute("aria-current") == "true"


def test_the_plot_is_moved_by_the_keyboard(panel: Locator) -> None:
    slider = panel.get_by_role("slider", name="Position in film.mp4")
    slider.focus()
    for key, moment in (("End", 5.75), ("Home", 0), ("ArrowRight", 0.167), ("PageUp", 1.083)):
        slider.press(key)
        expect_moment(panel, moment)
        spoken = slider.get_attribute("aria-valuetext") or ""
        assert ", similarity " in spoken
        assert float(slider.get_attribute("aria-valuenow") or -1) == pytest.approx(moment, abs=0.06)


def test_the_plot_is_moved_by_a_click(panel: Locator) -> None:
    slider = panel.get_by_role("slider")
    box = slider.bounding_box()
    assert box is not None
    slider.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    spoken = slider.get_attribute("aria-valuetext") or ""
    assert float(spoken.split(",")[0].split(":")[1]) == pytest.approx(3, abs=0.4)


def test_the_ranking_leads_to_the_best_moment(playground: Playground, samples: Path) -> None:
    playground.add(samples / "film.mp4")
    playground.describe("a rocket")
    playground.page.get_by_role("button", name="Best at 0:0").click()
    panel = playground.page.get_by_role("tabpanel", name="Video")
    time = panel.locator("video").evaluate("video => video.currentTime")
    assert 4 <= time <= 6


def test_more_frames_are_sampled_on_demand(panel: Locator) -> None:
    panel.get_by_label("Frames", exact=True).select_option("8")
    panel.get_by_text("based on 8 frames").wait_for()
    assert panel.locator(".strip button").count() == 8


def expect_moment(panel: Locator, seconds: float) -> None:
    panel.page.wait_for_function(
        "seconds => Math.abs(document.querySelector('video').currentTime - seconds) < 0.06",
        arg=seconds,
    )
