"""Take the screenshots of the playground that docs/ shows.

    .venv/bin/python -m tests.browser.screenshots

Run from the repository's root; it starts `mmes serve` by itself.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from tests.browser.chromium import open_chromium
from tests.browser.playground import Playground
from tests.browser.test_page import write_images
from tests.serving import serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FOLDER = Path(__file__).parent.parent.parent / "docs" / "images"
MAX_BYTES = 300_000
COLORS = 200


@dataclass(frozen=True, slots=True)
class Screen:
    size: tuple[int, int]
    scheme: Literal["light", "dark"] = "light"
    phone: bool = False


SCREENS = {
    "desktop": Screen((1180, 800)),
    "narrow": Screen((390, 844), phone=True),
    "dark": Screen((1180, 800), "dark"),
}

SHOWN = "() => !document.querySelector('.card [data-blank]')"
PLAYER_READY = """() => {
  const video = document.querySelector("#video video");
  return video.readyState > 2 && !video.seeking
    && !document.querySelector(".strip canvas:not([data-shown])");
}"""
LOST = re.compile("/(embeddings|ready)$")


def show_empty(page: Playground, scratch: Path) -> None:
    page.page.get_by_role("button", name="Try the samples").wait_for()


def show_ranking(page: Playground, scratch: Path) -> None:
    page.try_samples()
    page.page.locator(".match", has_text="%").first.wait_for()
    search(page, "a cat")


def show_no_match(page: Playground, scratch: Path) -> None:
    search(page, "a football match")
    page.page.get_by_text("Nothing fits").wait_for()


def show_viewer(page: Playground, scratch: Path) -> None:
    search(page, "a rocket")
    page.page.get_by_role("button", name="View rocket.jpg").click()
    page.page.get_by_role("dialog").get_by_role("img").wait_for()


def show_video(page: Playground, scratch: Path) -> None:
    page.page.keyboard.press("Escape")
    search(page, "a cat")
    page.show("Video")
    page.page.wait_for_function(PLAYER_READY)
    page.page.wait_for_timeout(2500)  # the player's own controls fade out


def show_map(page: Playground, scratch: Path) -> None:
    page.show("Map")


def show_matrix(page: Playground, scratch: Path) -> None:
    page.show("Matrix")


def show_code(page: Playground, scratch: Path) -> None:
    page.show("Code")


def show_error(page: Playground, scratch: Path) -> None:
    page.show("Ranking")
    broken = [scratch / f"holiday-{number}.jpg" for number in range(3)]
    for path in broken:
        path.write_text("not an image")
    page.add(*broken)
    page.page.get_by_role("alert").get_by_text("3 files").click()


def show_server_gone(page: Playground, scratch: Path) -> None:
    page.page.get_by_role("button", name="Dismiss").click()
    page.page.route(LOST, lambda route: route.abort("connectionrefused"))
    page.page.locator("#files").set_input_files(write_images(scratch, 37))
    page.page.get_by_text("The server is gone: 0 of 37 embedded.").wait_for()


STATES: dict[str, Callable[[Playground, Path], None]] = {
    "empty": show_empty,
    "ranking": show_ranking,
    "no-match": show_no_match,
    "viewer": show_viewer,
    "video": show_video,
    "map": show_map,
    "matrix": show_matrix,
    "code": show_code,
    "error": show_error,
    "server-gone": show_server_gone,
}
"""Each begins where the one before it ends."""


def search(page: Playground, text: str) -> None:
    page.describe(text)
    page.page.wait_for_function(SHOWN)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]
    with serving(command) as server, open_chromium() as browser:
        for name, screen in SCREENS.items():
            take(browser, server.url, name, screen)


def take(browser: Browser, url: str, name: str, screen: Screen) -> None:
    """Every state on one screen."""
    width, height = screen.size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=screen.scheme,
        reduced_motion="reduce",
        is_mobile=screen.phone,
        has_touch=screen.phone,
    )
    page = Playground(context.new_page(), url)
    with tempfile.TemporaryDirectory() as scratch:
        for state, show in STATES.items():
            show(page, Path(scratch))
            if state != "viewer":
                page.page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
            page.page.wait_for_timeout(300)  # thumbnails are painted
            path = FOLDER / file_name(state, name)
            size = save(page.page.screenshot(), path)
            sys.stdout.write(f"{path.relative_to(FOLDER.parent.parent)}: {size} bytes\n")
    context.close()


def file_name(state: str, screen: str) -> str:
    """`playground-video.png`, `playground-video-dark.png`; the ranking in the dark is `dark`."""
    parts = [state] * (state != "ranking" or screen == "desktop") + [screen] * (screen != "desktop")
    return f"playground-{'-'.join(parts)}.png"


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
