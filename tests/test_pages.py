"""The code on the pages of docs/ runs, and the site is built of all pages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.serving import Running, serving
from tests.test_readme import ADDRESS, BLOCK, ROOT, Block

DOCS = ROOT / "docs"
PAGES = ("get-started", "sdk", "operations", "deployment", "migration", "benchmarks", "api", "cli")
QUICK = ("get-started", "sdk", "api")
RUN = [
    pytest.param(
        Block(language, code),
        id=f"{page}-{number}",
        marks=() if page in QUICK else pytest.mark.slow,
    )
    for page in PAGES
    for number, (language, code) in enumerate(BLOCK.findall((DOCS / f"{page}.md").read_text()))
    if language in ("bash", "python")
]
"""Those of the QUICK pages run by default; the others take two minutes and are slow tests."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    command = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]
    with serving(command, cwd=ROOT) as running:
        yield running


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("block", RUN)
def test_a_pages_code_runs_as_it_is_shown(block: Block, server: Running, tmp_path: Path) -> None:
    code = block.code.replace(ADDRESS, server.url).replace(".venv/bin/", f"{Path(sys.prefix)}/bin/")
    shell = ["bash", "-euo", "pipefail", "-c"]
    done = subprocess.run(
        [*(shell if block.language == "bash" else [sys.executable, "-c"]), code],
        env={
            **os.environ,
            "EMBEDDING_OV_MODELS_DIR": str(tmp_path),
            "EMBEDDING_SEARCH_DIR": str(tmp_path / "search"),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout or block.language == "python" or "--" in code


def test_the_pages_have_code_that_is_run() -> None:
    assert len(RUN) >= 12


def test_every_page_is_in_the_site_and_every_target_is_named_truly() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    listed = [page for entry in site["nav"] for page in entry.values()]
    assert sorted(listed) == sorted(path.name for path in DOCS.glob("*.md"))
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for path in DOCS.glob("*.md"):
        for target in re.findall(r"`make ([a-z][a-z-]*)", path.read_text("utf-8")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path.name}: {target}"


def test_every_test_that_the_page_on_safety_names_exists() -> None:
    names = set(re.findall(r"`(test_\w+)`", (DOCS / "safety.md").read_text("utf-8")))
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(names) > 50
    assert {name for name in names if f"def {name}(" not in sources} == set()


@pytest.mark.slow
def test_the_site_is_built_and_asks_nothing_of_other_hosts(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="mkdocs-material is not installed (group docs)")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text("utf-8")
        for url in re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"(https?://[^\"]+)", text):
            assert "canonical" in url or url.startswith("https://squidfunk"), url
