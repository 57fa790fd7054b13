"""Take the screenshots of the playground that docs/ shows.

    .venv/bin/python -m tests.browser.screenshots

Run from the repository's root; it starts `mmes serve` by itself.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from tests.browser.chromium import open_chromium
from tests.browser.playground import Playground
from tests.serving import serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = Path(__file__).parent.parent.parent / "docs" / "images"
WIDE, NARROW = (1180, 960), (390, 780)
MAX_BYTES = 300_000
COLORS = 200


@dataclass(frozen=True, slots=True)
class Shot:
    """What a screenshot shows: a view after a search."""

    view: str
    description: str
    screen: tuple[int, int] = WIDE
    scheme: Literal["light", "dark"] = "light"


SHOTS = {
    "ranking": Shot("Ranking", "a cup of coffee"),
    "video": Shot("Video", "a cat"),
    "matrix": Shot("Matrix", "a rocket"),
    "code": Shot("Code", "a cup of coffee"),
    "dark": Shot("Ranking", "a rocket", scheme="dark"),
    "narrow": Shot("Ranking", "a cat", screen=NARROW),
}

SHOWN = "() => !document.querySelector('[data-blank]')"
PLAYER_READY = """() => {
  const video = document.querySelector("video");
  return video.readyState > 2 && !video.seeking
    && !document.querySelector(".strip canvas:not([data-shown])");
}"""


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]
    with serving(command) as server, open_chromium() as browser:
        for name, shot in SHOTS.items():
            path = FOLDER / f"playground-{name}.png"
            size = save(take(browser, server.url, shot), path)
            sys.stdout.write(f"{path.relative_to(FOLDER.parent.parent)}: {size} bytes\n")


def take(browser: Browser, url: str, shot: Shot) -> bytes:
    """A PNG of one view, everything on it drawn."""
    width, height = shot.screen
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=shot.scheme,
        reduced_motion="reduce",
    )
    playground = Playground(context.new_page(), url)
    playground.try_samples()
    playground.describe(shot.description)
    playground.page.wait_for_function(SHOWN)
    panel = playground.show(shot.view)
    if shot.view == "Video":
        panel.locator(".strip .best").click()
        playground.page.wait_for_function(PLAYER_READY)
        playground.page.wait_for_timeout(2000)  # the player's own controls fade out
    playground.page.evaluate("document.activeElement.blur()")
    start = "header" if shot.view in ("Ranking", "Matrix") and shot.screen is WIDE else "#search"
    playground.page.locator(start).evaluate("each => scrollTo(0, each.offsetTop - 12)")
    screenshot: bytes = playground.page.screenshot()
    context.close()
    return screenshot


def save(screenshot: bytes, path: Path) -> int:
    """Write it with a reduced palette. Returns the size in bytes."""
    with Image.open(io.BytesIO(screenshot)) as image:
        few = image.convert("RGB").quantize(COLORS, dither=Image.Dither.FLOYDSTEINBERG)
    few.save(path, optimize=True)
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{path.name} has {size} bytes, above {MAX_BYTES}")
    return size


if __name__ == "__main__":
    main()
