"""The code in README.md runs, against a server that is started as it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.serving import Running, serving

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:9777"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENVIRONMENT = ROOT / ".venv"


@dataclass(frozen=True)
class Block:
    language: str
    code: str


BLOCKS = [Block(language, code) for language, code in BLOCK.findall(README)]
START = "make serve\n"


def find(word: str) -> Block:
    """The block of code that contains a word."""
    (block,) = [each for each in BLOCKS if word in each.code]
    return block


def run(block: Block, server: Running, *arguments: str, **environ: str) -> str:
    """What a block prints when it is run in the repository's root."""
    code = block.code.replace(ADDRESS, server.url)
    shell = ["bash", "-euo", "pipefail", "-c"]
    command = shell if block.language == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*command, code, *arguments],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def started() -> Iterator[Running]:
    """The server, by the README's own command if this is the environment that it creates."""
    if Path(sys.prefix) == ENVIRONMENT and shutil.which("make"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [*START.split(), f"PORT={port}"]
    else:
        command = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]
    with serving(command, cwd=ROOT) as running:
        yield running


def json_values(text: str) -> list[dict[str, object]]:
    """Concatenated JSON objects."""
    values, place = [], 0
    while place < len(text.rstrip()):
        value, place = json.JSONDecoder().raw_decode(text, place)
        values.append(value)
    return values


def test_the_readme_is_short_and_names_the_command() -> None:
    assert len(README.splitlines()) < 175
    assert BLOCKS[0] == Block("bash", START)


def test_every_make_target_that_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"make ([a-z][a-z-]*)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_shell_lines_embed_a_text_a_photo_and_a_film(started: Running) -> None:
    text, photo, video = json_values(run(find("embed() {"), started))
    assert [len(each["embedding"]) for each in (text, photo)] == [384, 384]  # type: ignore[arg-type]
    assert len(video["embedding"]) == len(video["frames"]) == 4  # type: ignore[arg-type]


def test_the_python_lines_embed_the_same(started: Running) -> None:
    lines = run(find("embed_video"), started).splitlines()
    assert lines[:2] == ["(1, 384)", "(2, 384)"]
    assert lines[2].startswith("(4, 384) [0.0, ")


@pytest.mark.parametrize(
    ("description", "photo"),
    [([], "coffee.jpg"), (["a", "cat"], "cat.jpg"), (["a rocket"], "rocket.jpg")],
)
def test_the_example_ranks_the_right_photo_first(
    started: Running, description: list[str], photo: str
) -> None:
    block = find("argsort")
    assert len(block.code.splitlines()) <= 13
    assert run(block, started, *description).split()[0] == photo


def test_the_openai_client_works_as_shown(started: Running) -> None:
    assert run(find("OpenAI("), started) == "2 384\n"


def test_the_engine_and_the_sdk_work_as_shown(started: Running) -> None:
    similarities = run(find("Engine.open"), started)
    cat, rocket = map(float, re.findall(r"-?\d+\.\d+(?:e-?\d+)?", similarities))
    assert cat > rocket
    assert run(find("get_model_handler("), started) == "384\n"


@pytest.mark.skipif(
    Path(sys.prefix) != ENVIRONMENT, reason="the lines are about the environment that make makes"
)
def test_the_command_line_works_as_shown(started: Running, tmp_path: Path) -> None:
    output = run(find("mmes search"), started, EMBEDDING_SEARCH_DIR=str(tmp_path))
    assert "Builtin/mini (default)" in output
    assert output.count('"vector"') == 2
    assert output.splitlines()[-3].endswith("samples/coffee.jpg")


def test_every_block_of_code_is_run_here() -> None:
    words = ["embed() {", "ray start", "embed_video", "argsort", "OpenAI(", "Engine.open"]
    tested = [find(word) for word in (*words, "get_model_handler(", "mmes search")]
    rest = [each for each in BLOCKS[1:] if each not in tested]
    assert {each.language for each in rest} <= {"text"}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
