"""The pages behind a reverse proxy that exposes the server below a path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import httpx2
import pytest

from tests.api.fakes import Start
from tests.browser.conftest import Open
from tests.browser.test_api_page import operation, status_of
from tests.browser.test_page import write_images

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

PREFIX = "/mm"
PASSED = ("content-type", "accept", "authorization", "range")
KEPT = ("content-type", "content-security-policy", "content-range", "accept-ranges")


@contextmanager
def behind_a_proxy(url: str) -> Iterator[str]:
    """The address of a proxy that removes PREFIX, and answers 404 to any other path."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass_on()

        def do_POST(self) -> None:
            self._pass_on()

        def _pass_on(self) -> None:
            if not self.path.startswith(f"{PREFIX}/"):
                self.send_error(404)
                return
            answer = httpx2.request(
                self.command,
                url + self.path.removeprefix(PREFIX),
                content=self.rfile.read(int(self.headers.get("content-length", 0))),
                headers={name: self.headers[name] for name in PASSED if name in self.headers},
                trust_env=False,
                timeout=60,
            )
            self.send_response(answer.status_code)
            for name in KEPT:
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("content-length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}{PREFIX}"
        proxy.shutdown()


def test_the_playground_works_below_a_path(start: Start, visit: Open, tmp_path: Path) -> None:
    images = write_images(tmp_path, 3)
    with behind_a_proxy(start(root_path=PREFIX).url) as address:
        playground = visit(f"{address}/")
        playground.add(*images)
        playground.describe("a cat")
        assert sorted(playground.ranked) == sorted(path.name for path in images)


@pytest.mark.parametrize("end", ["", "/"])
def test_the_page_of_the_api_works_below_a_path(start: Start, chromium: Browser, end: str) -> None:
    with (
        behind_a_proxy(start(root_path=PREFIX).url) as address,
        chromium.new_page() as page,
    ):
        page.goto(f"{address}/docs{end}")
        block = operation(page, "/v1/embeddings")
        assert status_of(block) == "200"
        assert f"{address}/v1/embeddings" in block.locator(".curl").inner_text()
