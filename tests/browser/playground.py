"""The playground as a person uses it: what can be done on the page, and what is seen there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

PATIENCE = 120_000.0
"""Milliseconds until a test gives up waiting for the page. Images yield to other processes: a
video takes 2 s on an idle machine, and 30 s next to four busy processes."""

DROP = """([target, files]) => {
  const carried = new DataTransfer();
  for (const [name, type, text] of files) {
    const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    carried.items.add(new File([bytes], name, { type }));
  }
  for (const kind of ["dragover", "drop"]) {
    const event = new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: carried });
    document.querySelector(target).dispatchEvent(event);
  }
}"""


PASTE = """([target, files]) => {
  const carried = new DataTransfer();
  for (const [name, type, text] of files) {
    const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    carried.items.add(new File([bytes], name, { type }));
  }
  const options = { bubbles: true, cancelable: true, clipboardData: carried };
  document.querySelector(target).dispatchEvent(new ClipboardEvent("paste", options));
}"""


class Playground:
    """One open page."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda line: self._hear(line.type, line.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._note(request.url))
        page.goto(url)

    def _hear(self, kind: str, text: str) -> None:
        # The browser notes each refused request; the tests that make one look at the page instead.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.complaints.append(text)

    def _note(self, url: str) -> None:
        if not url.startswith("data:"):
            self.hosts.add(urlsplit(url.removeprefix("blob:")).netloc)

    def wait_until_ready(self) -> None:
        """Wait until the page knows the model."""
        self.page.locator("#model-summary").wait_for()

    def add(self, *paths: Path) -> None:
        """Choose files, and wait until they are embedded."""
        self.page.locator("#files").set_input_files(paths)
        self.wait_until_embedded()

    def drop(self, *files: tuple[str, str, str], on: str = "#intake") -> None:
        """Drop files on the page: (name, type, base64) each."""
        self.page.evaluate(DROP, [on, files])
        self.wait_until_embedded()

    def paste(self, *files: tuple[str, str, str], on: str = "body") -> None:
        """Paste files: (name, type, base64) each."""
        self.page.evaluate(PASTE, [on, files])
        self.wait_until_embedded()

    def drop_folder(self, folder: Path) -> None:
        """Drop a folder of this machine on the page, as its file manager does."""
        self.wait_until_ready()
        session = self.page.context.new_cdp_session(self.page)
        data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            place = {"type": kind, "x": 300, "y": 300, "data": data}
            session.send("Input.dispatchDragEvent", place)

    def try_samples(self) -> None:
        self.page.get_by_role("button", name="Try the samples").click()
        self.card("film.mp4").wait_for()
        self.page.locator(".card.ranked").first.wait_for()
        self.wait_until_embedded()

    def wait_until_embedded(self) -> None:
        self.page.locator("#progress").wait_for(state="hidden")

    def describe(self, text: str) -> None:
        """Search, and wait for the ranking."""
        field = self.page.get_by_label("Describe what you are looking for")
        field.fill(text)
        field.press("Enter")
        chip = self.page.locator("#descriptions [aria-pressed=true]", has_text=text)
        chip.wait_for()

    def show(self, tab: str) -> Locator:
        """The panel of a view."""
        self.page.get_by_role("tab", name=tab).click()
        return self.page.get_by_role("tabpanel", name=tab)

    def card(self, name: str) -> Locator:
        return self.page.locator(".card", has_text=name)

    @property
    def ranked(self) -> Sequence[str]:
        """The names on the page of results, the most similar first."""
        names: list[str] = self.page.locator(".card .name").all_inner_texts()
        return names

    @property
    def scores(self) -> list[float]:
        return [float(each) for each in self.page.locator(".card .score").all_inner_texts()]

    @property
    def matches(self) -> list[str]:
        """The absolute scores on the page of results."""
        texts: list[str] = self.page.locator(".card .match").all_inner_texts()
        return texts

    @property
    def problems(self) -> list[str]:
        """The reasons that the page lists, each with its buttons."""
        texts: list[str] = self.page.get_by_role("alert").locator(".problem").all_inner_texts()
        return texts

    @property
    def said(self) -> str:
        """What the page shows about its state, and its errors."""
        parts = ("#progress-text", "#status", "#errors")
        found = [self.page.locator(part) for part in parts]  # none on the API page
        texts = [part.text_content() or "" for part in found if part.count()]
        return " | ".join([*texts, *self.complaints])

    def status(self, text: str) -> None:
        """Wait until the page says so."""
        self.page.get_by_role("status").filter(has_text=text).wait_for()
