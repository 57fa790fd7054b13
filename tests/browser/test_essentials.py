"""What the playground is for, in a real browser: upload, search, a video's plot, what goes wrong.

The other tests of this folder run in `make test-all`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.playground import Playground
from tests.browser.test_page import write_images
from tests.browser.test_search import PHOTOS
from tests.browser.test_video import FRAMES

# The sample video: two seconds of coffee, two of a cat, two of a rocket.
SCENES = {"a cup of coffee": (0, 2), "a cat": (2, 4), "a rocket": (4, 6)}


@pytest.mark.parametrize(
    ("description", "photo"), [("a cup of coffee", "coffee.jpg"), ("a cat", "cat.jpg")]
)
def test_the_described_photo_is_ranked_first(
    playground: Playground, samples: Path, description: str, photo: str
) -> None:
    playground.add(*(samples / name for name in PHOTOS))
    assert playground.ranked == list(PHOTOS)  # in the order they were added: there is no query yet
    playground.describe(description)
    assert playground.ranked[0] == photo
    assert sorted(playground.ranked) == list(PHOTOS)
    assert playground.scores == sorted(playground.scores, reverse=True)
    playground.status(f"Best match: {photo}")
    playground.page.get_by_text("What do the numbers mean?").wait_for()
    playground.page.locator(".match", has_text="%").first.wait_for()
    shares = [int(match.strip("<%")) for match in playground.matches]
    assert shares[0] > 90
    assert max(shares[1:]) < 50
    playground.describe("a football match")
    playground.page.get_by_text("Nothing fits “a football match” well.").wait_for()


def test_the_plot_shows_where_each_description_fits(playground: Playground, samples: Path) -> None:
    playground.add(samples / "film.mp4")
    panel = playground.show("Video")
    for description, (start, end) in SCENES.items():
        playground.describe(description)
        panel.get_by_text(f"How well “{description}” matches").wait_for()
        assert panel.locator("svg .dot").count() == FRAMES
        best = panel.locator(".strip .best").text_content()
        assert best is not None
        minutes, seconds = best.split(",")[0].split(":")
        assert start <= int(minutes) * 60 + float(seconds) <= end, best


def test_a_broken_image_is_named_and_does_not_fail_its_neighbors(
    quick: Playground, tmp_path: Path
) -> None:
    images = write_images(tmp_path, 5)
    cut = tmp_path / "cut.png"
    cut.write_bytes(images[0].read_bytes()[:45])
    text = tmp_path / "words.jpg"
    text.write_text("these are words")
    quick.add(*images[:3], cut, text, *images[3:])
    assert quick.ranked == [path.name for path in images]
    quick.status("Embedded 5 of 7 items in")
    lines = sorted(quick.problems)
    assert [line.split(":")[0] for line in lines] == ["cut.png", "words.jpg"]
    assert "(422)" in lines[0]
    assert "not a supported image format" in lines[1]
    for left in (1, 0):
        quick.page.get_by_role("alert").get_by_role("button", name="Dismiss").first.click()
        assert len(quick.problems) == left
