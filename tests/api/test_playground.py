"""The playground's static side: every file is served, to everyone, and leads nowhere else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import httpx2
import pytest

from multimodal_embedding_serving.api.playground import FILES, SAMPLES
from tests.api.fakes import Start

SVG_NAMESPACE = "http://www.w3.org/2000/svg"
NAMES = sorted(path.name for path in FILES.iterdir())
SCRIPTS = sorted(FILES.glob("*.js"))
PAGE = (FILES / "index.html").read_text("utf-8")
FILE_LINES, FILE_BYTES, ALL_BYTES = 350, 20_000, 150_000


class Tags(HTMLParser):
    """The elements of a page, and what stands inside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip() and self.tags and self.lasttag in ("script", "style"):
            self.inline.append(data)


def test_the_page_is_at_the_root(http: httpx2.Client) -> None:
    answer = http.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.text == PAGE
    assert http.head("/").status_code == 200


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_served_with_its_type_and_a_strict_policy(
    http: httpx2.Client, name: str
) -> None:
    answer = http.get(f"/playground/{name}")
    assert answer.status_code == 200
    assert answer.content == (FILES / name).read_bytes()
    types = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/"}
    assert answer.headers["content-type"].startswith(types[Path(name).suffix])
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(
        part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'self'"
    assert policy["img-src"] == policy["media-src"] == "'self' blob: data:"
    assert not any("unsafe" in value or "http" in value for value in policy.values())
    assert "script-src" not in policy
    assert "style-src" not in policy


def test_the_samples_are_listed_and_served(http: httpx2.Client) -> None:
    names = http.get("/playground/samples.json").json()["samples"]
    assert "coffee.jpg" in names
    assert "film.mp4" in names
    for name in names:
        answer = http.get(f"/playground/samples/{name}")
        assert answer.content == (SAMPLES / name).read_bytes()
        assert answer.headers["content-type"] in ("image/jpeg", "video/mp4")
    assert "film.mp4" in http.get("/playground/samples/LICENSES.md").text


@pytest.mark.parametrize(
    "path",
    [
        "/playground/",
        "/playground/app.py",
        "/playground/..%2fapp.py",
        "/playground/%2e%2e/app.py",
        "/playground/samples/..%2f..%2fmini%2fmanifest.json",
        "/playground/samples/%2fetc%2fpasswd",
        "/playground/index.html%00.js",
    ],
)
def test_nothing_else_can_be_had_below_it(http: httpx2.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"


def test_no_key_is_asked_for_by_static_files_only(start: Start) -> None:
    serving = start(api_keys=("secret",))
    with httpx2.Client(base_url=serving.url) as http:
        for path in ("/", "/playground/main.js", "/playground/samples.json", "/ready"):
            assert http.get(path).status_code == 200
        assert http.get("/playground/samples/cat.jpg").status_code == 200
        assert http.get("/model/current").status_code == 401
        assert http.get("/playground/../model/current").status_code == 401


def test_its_routes_are_no_part_of_the_api_description(http: httpx2.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert "get" not in paths.get("/", {})
    assert not [path for path in paths if path.startswith("/playground")]


@pytest.mark.parametrize("name", NAMES)
def test_no_file_refers_to_another_host(name: str) -> None:
    text = (FILES / name).read_text("utf-8").replace(SVG_NAMESPACE, "")
    assert not re.search(r"(?:https?|wss?|ftp)://|[\"'(=]\s*//", text)


def test_the_page_holds_no_code_and_no_style() -> None:
    page = Tags(PAGE)
    assert not page.inline
    for tag, attributes in page.tags:
        assert tag != "style"
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]


def test_the_page_leads_to_what_is_there(http: httpx2.Client) -> None:
    links = [
        value for _, each in Tags(PAGE).tags for key in ("src", "href") if (value := each.get(key))
    ]
    assert len(links) > 6
    for link in links:
        if not link.startswith("#"):
            assert http.get(f"/{link}").status_code == 200, link


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_never_turns_text_into_code_or_markup(path: Path) -> None:
    source = path.read_text("utf-8")
    unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert not re.search(unsafe, source)
    assert "localStorage" not in source
    assert "document.cookie" not in source


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_finds_its_modules_and_its_elements(path: Path) -> None:
    source = path.read_text("utf-8")
    for imported, module in re.findall(r'import \{([^}]+)\} from "\./([\w.]+)"', source):
        exported = (FILES / module).read_text("utf-8")
        for name in imported.split(","):
            assert re.search(rf"export .*\b{name.strip()}\b", exported), name
    ids = {attributes.get("id") for _, attributes in Tags(PAGE).tags}
    assert set(re.findall(r'byId\("([\w-]+)"\)', source)) <= ids


def test_the_files_are_small() -> None:
    for path in FILES.iterdir():
        assert len(path.read_text("utf-8").splitlines()) <= FILE_LINES, path.name
        assert path.stat().st_size <= FILE_BYTES, path.name
    assert sum(path.stat().st_size for path in FILES.iterdir()) <= ALL_BYTES


LIGHT, DARK = re.findall(r":root \{(.*?)\}", (FILES / "theme.css").read_text("utf-8"), re.DOTALL)
READABLE = 4.5
"""WCAG 2.2's contrast of text, level AA."""


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("text", "page"),
        ("text", "panel"),
        ("text", "tint"),
        ("text", "notice-tint"),
        ("soft", "page"),
        ("soft", "panel"),
        ("soft", "well"),
        ("accent", "page"),
        ("accent", "panel"),
        ("accent-text", "accent"),
        ("warm", "panel"),
        ("error", "error-tint"),
    ],
)
def test_text_can_be_read_on_its_ground(theme: str, text: str, ground: str) -> None:
    colors = dict(re.findall(r"--([\w-]+): (#\w{6})", theme))
    light, dark = sorted((luminance(colors[text]), luminance(colors[ground])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= READABLE


def luminance(color: str) -> float:
    """WCAG's relative luminance of #rrggbb, 0 to 1."""
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    ]
    return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
