"""The code in README.md runs, against a server that is started as it says."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import Figure
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
INSTALLING = (". .venv/bin/activate", "pip install")
"""Lines that only the test on a clean machine runs."""


def find(word: str) -> Block:
    """The block of code that contains a word."""
    (block,) = [each for each in BLOCKS if word in each.code]
    return block


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """The reader's folder, with what `mmes samples photos` writes."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(samples, folder / "photos", ignore=shutil.ignore_patterns("*.md"))
    return folder


def run(block: Block, server: Running, folder: Path, *arguments: str, **environ: str) -> str:
    """What a block prints in the reader's folder, in the environment that runs the tests."""
    code = block.code.replace(ADDRESS, server.url)
    if block.language == "bash":
        code = "\n".join(line for line in code.splitlines() if not line.startswith(INSTALLING))
    shell = ["bash", "-euo", "pipefail", "-c"]
    command = shell if block.language == "bash" else [sys.executable, "-c"]
    path = f"{Path(sys.prefix)}/bin:{os.environ['PATH']}"
    done = subprocess.run(
        [*command, code, *arguments],
        cwd=folder,
        env={**os.environ, "PATH": path, "EMBEDDING_SEARCH_DIR": str(folder / "search"), **environ},
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
    assert len(README.splitlines()) < 200
    assert BLOCKS[0] == Block("bash", START)


def test_every_make_target_that_it_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"make ([a-z][a-z-]*)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_shell_lines_embed_a_text_a_photo_and_a_film(started: Running, folder: Path) -> None:
    text, photo, video = json_values(run(find("embed() {"), started, folder))
    assert [len(each["embedding"]) for each in (text, photo)] == [384, 384]  # type: ignore[arg-type]
    assert len(video["embedding"]) == len(video["frames"]) == 4  # type: ignore[arg-type]


def test_the_python_lines_embed_the_same(started: Running, folder: Path) -> None:
    lines = run(find("embed_video"), started, folder).splitlines()
    assert lines[:2] == ["(1, 384)", "(2, 384)"]
    assert lines[2].startswith("(4, 384) [0.0, ")


@pytest.mark.parametrize(
    ("description", "photo"),
    [([], "coffee.jpg"), (["a", "cat"], "cat.jpg"), (["a rocket"], "rocket.jpg")],
)
def test_the_example_ranks_the_right_photo_first(
    started: Running, folder: Path, description: list[str], photo: str
) -> None:
    block = find("argsort")
    assert len(block.code.splitlines()) <= 13
    assert run(block, started, folder, *description).split()[0] == photo


def test_the_openai_client_works_as_shown(started: Running, folder: Path) -> None:
    assert run(find("OpenAI("), started, folder) == "2 384\n"


def test_the_engine_and_the_sdk_work_as_shown(started: Running, folder: Path) -> None:
    similarities = run(find("Engine.open"), started, folder)
    cat, rocket = map(float, re.findall(r"-?\d+\.\d+(?:e-?\d+)?", similarities))
    assert cat > rocket
    assert run(find("get_model_handler("), started, folder) == "384\n"


def test_the_commands_work_as_shown(started: Running, folder: Path) -> None:
    first, *_ = run(find("mmes search"), started, folder).splitlines()
    assert first.endswith("photos/coffee.jpg")
    assert (folder / "result.html").is_file()
    output = run(find("mmes models"), started, folder)
    assert "Builtin/mini (default)" in output
    assert output.count('"vector"') == 2
    assert "vectors.npy: 70 vectors; 7 inputs embedded" in output
    assert "vectors.parquet: 70 vectors" in run(find("vectors.parquet"), started, folder)


def test_every_block_of_code_is_run_here() -> None:
    words = ["embed() {", "ray start", "embed_video", "argsort", "OpenAI(", "Engine.open"]
    words += ["get_model_handler(", "mmes search", "mmes models", "vectors.parquet"]
    tested = [find(word) for word in words]
    rest = [each for each in BLOCKS[1:] if each not in tested]
    assert {each.language for each in rest if "pip install openai" not in each.code} <= {"text"}
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@dataclass(frozen=True)
class Machine:
    """A fresh copy of the tracked files, and a shell without this environment."""

    clone: Path
    environ: dict[str, str]

    @property
    def command(self) -> list[str]:
        return ["env", "-i", *(f"{name}={value}" for name, value in self.environ.items())]

    def paste(self, script: str) -> str:
        """What a shell prints that executes the lines as they are typed."""
        done = subprocess.run(
            [*self.command, "bash", "-euo", "pipefail"],
            input=script,
            cwd=self.clone,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    clone = tmp_path / "clone"
    for name in tracked_files():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clone / name)
    python = getattr(sys, "_base_executable", sys.executable)
    return Machine(clone, {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHON": python})


@pytest.mark.slow
def test_a_clone_and_the_readme_are_enough(machine: Machine, figure: Figure) -> None:
    """All blocks but Ray's (tests/scale has those), in one shell, as they stand."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = time.monotonic()
    command = [*machine.command, *START.split(), f"PORT={port}"]
    with serving(command, cwd=machine.clone) as running:
        log = "".join(running.log)
        figure(f"from a clone to a server that is ready: {time.monotonic() - started:.0f} s")
        blocks = [each for each in BLOCKS[1:] if each.language != "text"]
        script = "\n".join(pasted(each) for each in blocks if "ray start" not in each.code)
        output = machine.paste(script.replace(ADDRESS, running.url))
    assert log.index("openvino, ") < log.index("done in") < log.index("Uvicorn running on")
    assert "photos/coffee.jpg" in output
    assert "(4, 384) [0.0, " in output
    assert "2 384\n" in output
    assert "vectors.parquet: 70 vectors" in output


@pytest.mark.slow
def test_a_wheel_and_the_readme_are_enough(machine: Machine, figure: Figure) -> None:
    install = (
        find("dist/")
        .code.replace("mmes serve\n", "")
        .replace("python3 -m", f"{machine.environ['PYTHON']} -m")
    )
    search = find("mmes search").code.replace(".venv/", "mmes-env/")
    # The wheel of `make release`, without its checks, which have tests of their own.
    machine.paste(f"{machine.environ['PYTHON']} -m pip wheel --no-deps --wheel-dir dist .\n")
    started = time.monotonic()
    output = machine.paste(install + search)
    figure(f"from a wheel to a ranked list: {time.monotonic() - started:.0f} s")
    assert "photos/coffee.jpg" in output


def tracked_files() -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]


def pasted(block: Block) -> str:
    """A block as it is typed in a shell; Python's goes into `python`."""
    return f"python - <<'END'\n{block.code}END" if block.language == "python" else block.code
