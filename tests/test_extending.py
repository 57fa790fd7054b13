"""The recipes of docs/extending.md are complete: each is followed on a copy of the repository, with
the code that the page shows, and the tests that concern it pass there. A recipe that leaves out a
file fails here. Each takes 7 to 10 s of one core; two run by default."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = Path("src/multimodal_embedding_serving")
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
COPIED = ("src", "tests", "scripts", "docs", "docker")
LINKED = (PACKAGE / "builtin", Path("tests/golden"))
"""Large, and read only."""
BLOCK = re.compile(
    r"^```python\n# (?P<path>\S+?)(?:, (?P<where>[^\n]+))?\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Copy:
    """A copy of the repository, to be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        linked = {str(ROOT / path) for path in LINKED}

        def skip(where: str, names: list[str]) -> list[str]:
            return [name for name in names if name == "__pycache__" or f"{where}/{name}" in linked]

        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name, ignore=skip)
        for name in ("pyproject.toml", "setup.sh", *(path.name for path in ROOT.glob("*.md"))):
            shutil.copy(ROOT / name, folder)
        for path in LINKED:
            (folder / path).symlink_to(ROOT / path)

    def follow(self, heading: str) -> None:
        """Make the changes that the page shows below a heading."""
        section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
        blocks = list(BLOCK.finditer(section))
        assert blocks, heading
        for block in blocks:
            path = self.folder / PACKAGE / block["path"]
            if block["where"] is None:
                assert not path.exists()
                path.write_text(block["code"], "utf-8")
            else:
                path.write_text(inserted(path.read_text("utf-8"), block["where"], block["code"]))

    def write(self, path: str, text: str) -> None:
        assert not (self.folder / path).exists()
        (self.folder / path).write_text(text, "utf-8")

    def run(self, *arguments: str) -> str:
        """Run `python …` over the copy; returns what it prints."""
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(self.folder / "src")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        return done.stdout

    def test(self, *arguments: str) -> None:
        self.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)


def inserted(source: str, where: str, code: str) -> str:
    """`code` inserted among the imports, `above NAME`, or as the last entry `in NAME`."""
    tree, lines = ast.parse(source), source.splitlines(keepends=True)
    if where == "imports":
        last = [each for each in tree.body if isinstance(each, ast.Import | ast.ImportFrom)][-1]
        return "".join([*lines[: last.end_lineno], code, *lines[last.end_lineno :]])
    how, name = where.split()
    assignment = next(each for each in tree.body if name in targets(each))
    if how == "above":
        start = assignment.lineno - 1
        return "".join([*lines[:start], code, "\n\n", *lines[start:]])
    value = assignment.value  # type: ignore[attr-defined]
    if isinstance(value, ast.Call):  # MappingProxyType({…})
        value = value.args[0]
    end = value.end_lineno - 1  # the line of the closing bracket
    return "".join([*lines[:end], code, *lines[end:]])


def targets(statement: ast.stmt) -> list[str]:
    """The names that a statement assigns."""
    if isinstance(statement, ast.AnnAssign):
        return [ast.unparse(statement.target)]
    return list(map(ast.unparse, statement.targets)) if isinstance(statement, ast.Assign) else []


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path / "copy")


def test_a_model_is_one_row(copy: Copy) -> None:
    copy.follow("A model")
    copy.run("-m", "scripts.generate_docs")
    page = (copy.folder / "docs" / "models.md").read_text("utf-8")
    assert "| `SigLIP/siglip2-vit-b-32` | not measured yet |" in page
    assert "SigLIP/siglip2-vit-b-32" in (copy.folder / "setup.sh").read_text("utf-8")
    listed = json.loads(copy.run("-m", "multimodal_embedding_serving", "models", "--json"))
    assert "SigLIP/siglip2-vit-b-32" in [each["id"] for each in listed]
    copy.test(
        *("tests/test_catalog.py", "tests/parity/test_table.py", "tests/test_docs.py"),
        "tests/deploy/test_setup.py::test_it_knows_the_models_of_the_catalog",
        *("-k", "not example_is_answered and not openapi_page"),
    )


SQUARECLIP = """
from multimodal_embedding_serving.catalog import resolve
from multimodal_embedding_serving.families.recognition import recognize_checkpoint
from multimodal_embedding_serving.families import find_family
from multimodal_embedding_serving.checkpoints.weights import Weights
from tests.families.hollow import hollow_tensor, unused_tensors
from tests.parity.small import small_arrays, small_config

WORDS = {"text_model.embeddings.token_embedding.weight": "text_model.words.weight"}


def test_a_checkpoint_is_recognized_and_planned() -> None:
    arrays = small_arrays("clip-vit-b-16", "transformers")
    named = {WORDS.get(name, name): array for name, array in arrays.items()}
    tensors = {name: hollow_tensor(name, array.shape) for name, array in named.items()}
    config = {**small_config("clip-vit-b-16"), "model_type": "squareclip"}
    family, checkpoint = recognize_checkpoint(Weights(tensors, file="a.safetensors"), config, None)
    assert family == "SquareCLIP"
    image, text = find_family(family).plan(checkpoint)
    assert (image.transform["resize"], text.transform["lowercase"]) == ("squash", True)
    assert not unused_tensors(family, checkpoint)
"""


@pytest.mark.slow
def test_a_family_is_one_file_and_its_rows(copy: Copy) -> None:
    copy.follow("A family")
    copy.write("tests/families/test_squareclip.py", SQUARECLIP)
    copy.test(
        *("tests/families/test_squareclip.py", "tests/families/test_length.py"),
        *("tests/families/test_recognition.py", "tests/test_catalog.py"),
    )


IMAGE_SEQUENCE = """
import httpx2

from tests.api.fakes import Start
from tests.media_files import write_image


def test_numbered_files_are_embedded_and_a_bad_field_is_named(start: Start, tmp_path) -> None:
    for name in ("a-08.png", "a-09.png", "a-10.png"):
        (tmp_path / name).write_bytes(write_image("png"))
    url = f"{start(media_roots=(tmp_path,)).url}/embeddings"
    asked = {"type": "image_sequence", "image_pattern": "a-##.png", "first": 8, "count": 3}
    reply = httpx2.post(url, json={"input": asked})
    assert reply.status_code == 200, reply.text
    assert [len(vector) for vector in reply.json()["embedding"]] == [8, 8, 8]
    reply = httpx2.post(url, json={"input": {**asked, "count": 0}})
    assert reply.json()["detail"].startswith("input.count: ")
"""


@pytest.mark.slow
def test_an_input_kind_is_one_class_and_its_example(copy: Copy) -> None:
    copy.follow("An input kind")
    page = copy.folder / "docs" / "api.md"
    section = PAGE.split("\n## An input kind\n", 1)[1].split("\n## ", 1)[0]
    (example,) = re.findall(r"^```json\n.*?^```\n", section, re.MULTILINE | re.DOTALL)
    replace(page, "### segment_config\n", f"{example}\n### segment_config\n")
    root = "    shutil.copytree(samples, folder, dirs_exist_ok=True)\n"
    files = "".join(
        f'    shutil.copy(samples / "cat.jpg", folder / "shot-0{n}.jpg")\n' for n in (1, 2)
    )
    replace(copy.folder / "tests" / "test_docs.py", root, root + files)
    several = "    if isinstance(content, list):\n        return len(content)\n"
    counted = '    if source["type"] == "image_sequence":\n        return source["count"]\n'
    replace(copy.folder / "tests" / "test_docs.py", several, several + counted)
    copy.write("tests/api/test_image_sequence.py", IMAGE_SEQUENCE)
    copy.test("tests/inputs", "tests/api/test_image_sequence.py", "tests/api/test_request_body.py")
    copy.test("tests/test_docs.py", "-k", "every_kind or image_sequence")


def replace(path: Path, old: str, new: str) -> None:
    """Replace the only occurrence of a text in a file."""
    before, after = path.read_text("utf-8").split(old)
    path.write_text(before + new + after, "utf-8")


ACME = """
import httpx2


def test_it_answers_and_reports_errors_in_its_own_shape(http: httpx2.Client) -> None:
    reply = http.post("/acme/embed", json={"inputs": ["a", "b"]})
    assert [len(vector) for vector in reply.json()] == [8, 8]
    reply = http.post("/acme/embed", json={"inputs": 7})
    assert (reply.status_code, reply.json()["error_type"]) == (422, "invalid_input")
    assert http.get("/acme/nowhere").json()["error_type"] == "not_found"
"""


def test_a_dialect_is_one_file_and_its_row(copy: Copy) -> None:
    copy.follow("A dialect")
    copy.write("tests/api/test_acme.py", ACME)
    copy.test(
        *("tests/api/test_acme.py", "tests/api/test_schema.py", "tests/api/test_fingerprint.py"),
        *("tests/api/test_errors.py", "-k", "acme or left_out or in_the_document or own_shape"),
    )
