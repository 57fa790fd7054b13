"""Images and descriptions, with the embedded model, in a real browser."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.playground import Playground

pytestmark = pytest.mark.slow

BOLD = "cells => cells.findIndex(cell => cell.classList.contains('best'))"
PHOTOS = ("astronaut.jpg", "cat.jpg", "clock.jpg", "coffee.jpg", "coins.jpg", "rocket.jpg")


def test_the_samples_are_one_click_away(playground: Playground) -> None:
    playground.try_samples()
    assert playground.ranked[0] == "coffee.jpg"
    assert len(playground.ranked) == len(PHOTOS) + 1
    page = playground.page
    page.get_by_role("button", name="a rocket", exact=True).click()
    playground.card("rocket.jpg").locator(".place", has_text="1").or_(
        playground.card("film.mp4").locator(".place", has_text="1")
    ).wait_for()
    page.get_by_role("button", name="Remove “a rocket”").click()
    # The page draws what has changed with its next frame: later than the click returns.
    page.get_by_role("button", name="a rocket", exact=True).wait_for(state="detached")
    page.get_by_role("button", name="Remove all").click()
    page.locator(".card").first.wait_for(state="detached")


def test_a_folder_is_searched_and_other_files_are_skipped(
    playground: Playground, samples: Path, tmp_path: Path
) -> None:
    below = tmp_path / "photos" / "below"
    below.mkdir(parents=True)
    shutil.copy(samples / "cat.jpg", below.parent)
    shutil.copy(samples / "coffee.jpg", below)
    (below / "notes.bin").write_text("not an image")
    playground.page.locator("#folder").set_input_files(below.parent)
    playground.card("coffee.jpg").wait_for()
    playground.wait_until_embedded()
    playground.describe("a cat")
    assert playground.ranked == ["cat.jpg", "coffee.jpg"]


def test_dropped_files_are_added_once(playground: Playground, samples: Path) -> None:
    files = [
        (name, "image/jpeg", base64.b64encode((samples / name).read_bytes()).decode())
        for name in ("cat.jpg", "coffee.jpg")
    ]
    playground.drop(*files)
    playground.card("coffee.jpg").wait_for()
    playground.describe("a cat")
    assert playground.ranked == ["cat.jpg", "coffee.jpg"]


def test_texts_are_ranked_with_images(playground: Playground, samples: Path) -> None:
    playground.add(samples / "cat.jpg")
    page = playground.page
    page.get_by_role("button", name="Add texts").click()
    page.get_by_label("Texts to rank, one per line").fill("a kitten\nthe stock exchange\n\n")
    page.get_by_role("button", name="Add", exact=True).click()
    playground.card("the stock exchange").wait_for()
    playground.describe("a cat")
    texts = page.locator(".card").all_inner_texts()
    assert len(texts) == 3
    assert "the stock exchange" in texts[-1]


def test_images_are_found_by_an_image(playground: Playground) -> None:
    playground.try_samples()
    playground.page.get_by_role("button", name="More like this: cat.jpg").click()
    playground.page.get_by_text("6 results similar to cat.jpg").wait_for()
    assert playground.ranked[0] == "film.mp4"  # it shows the same cat
    assert "cat.jpg" not in playground.ranked


def test_the_matrix_marks_the_best_of_each_description(playground: Playground) -> None:
    playground.try_samples()
    matrix = playground.show("Matrix")
    names = matrix.locator("thead th").all_inner_texts()
    assert [name.strip() for name in names] == [*PHOTOS[:5], "film.mp4", "rocket.jpg"]
    best = {
        row.locator("th").inner_text(): names[row.locator("td").evaluate_all(BOLD)].strip()
        for row in matrix.locator("tbody tr").all()
    }
    assert best["a cup of coffee"] == "coffee.jpg"
    assert best["a clock"] == "clock.jpg"
    assert best["a cat"] in ("cat.jpg", "film.mp4")
    matrix.get_by_label("Compare").select_option("items")
    matrix.locator("tbody tr").nth(6).wait_for()
    assert matrix.locator("td.same").all_inner_texts() == ["1.00"] * 7
    matrix.get_by_label("Compare").select_option("descriptions")
    matrix.locator("tbody tr").nth(6).wait_for(state="detached")
    assert matrix.locator("tbody tr").count() == 4


@pytest.mark.parametrize("language", ["curl", "Python"])
def test_the_lines_that_it_shows_do_the_same(
    playground: Playground, samples: Path, language: str
) -> None:
    playground.add(samples / "cat.jpg", samples / "coffee.jpg", samples / "film.mp4")
    playground.describe('a cup of coffee, "hot" — and it\'s mine')
    code = playground.show("Code").get_by_role("region", name=f"{language} code").inner_text()
    shell = ["bash", "-euo", "pipefail", "-c"] if language == "curl" else [sys.executable, "-c"]
    done = subprocess.run(
        [*shell, code], cwd=samples, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    if language == "curl":
        assert done.stdout.count('"embedding":') == 4  # the text, two images, the video
        assert done.stdout.count('"timestamp":') == 32
    else:
        lines = done.stdout.splitlines()
        score = playground.page.locator(".card .score").first
        assert lines[0].split()[1] == "coffee.jpg"
        assert len(lines) == 2 + 32
        playground.show("Ranking")
        assert abs(float(lines[0].split()[0]) - float(score.inner_text())) < 0.002


def test_the_lines_are_copied_by_a_button(playground: Playground) -> None:
    playground.describe("a cat")
    playground.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    code = playground.show("Code")
    code.get_by_role("button", name="Copy the Python code").click()
    code.get_by_text("Copied").wait_for()
    copied = playground.page.evaluate("navigator.clipboard.readText()")
    assert copied == code.get_by_role("region", name="Python code").inner_text()


def test_the_model_and_its_speed_are_named(playground: Playground, samples: Path) -> None:
    facts, model = playground.page.locator("#facts"), playground.page.locator("#model-summary")
    model.get_by_text("Builtin/mini").wait_for()
    assert "384" in facts.inner_text()
    assert "small built-in model" in playground.page.locator("#notice").inner_text()
    playground.add(samples / "cat.jpg")
    playground.describe("a cat")
    assert not facts.is_visible()  # folded away, once there is something to look at
    model.click()
    facts.get_by_text("images/s").wait_for()
    assert "ms per text" in facts.inner_text()
