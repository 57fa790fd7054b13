"""The house rules that a machine can read."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "multimodal_embedding_serving"
FILE_LINES, FUNCTION_LINES = 350, 40
# Written apart, so that this file does not find itself.
LOOSE_ENDS = re.compile(
    "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error"])
)
VAGUE = {"utils", "helpers", "common", "base", "manager", "wrapper", "handler", "misc", "factory"}
CATCH_ALL = {"batching/batcher.py", "batching/queue.py", "api/middleware.py"}


def files(*folders: str) -> list[Path]:
    """Hidden folders hold other people's files: the benchmark's environments are such."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if "/." not in f"/{path.relative_to(ROOT)}")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


EVERY = files("src", "tests", "scripts", "benchmarks")
CODE = files("src")


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_a_file_fits_its_room(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= FILE_LINES, f"{name(path)} has {lines} lines"


@pytest.mark.parametrize("path", CODE, ids=name)
def test_a_function_fits_a_screen(path: Path) -> None:
    long = [
        f"{name(path)}:{node.lineno} {node.name}: {length} lines"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    ]
    assert not long, long


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_nothing_is_left_for_later(path: Path) -> None:
    loose = [
        f"{name(path)}:{number} {line.strip()}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if LOOSE_ENDS.search(line)
    ]
    assert not loose, loose


@pytest.mark.parametrize("path", CODE, ids=name)
def test_a_file_is_named_by_a_noun_of_the_trade(path: Path) -> None:
    assert not VAGUE & set(path.relative_to(SOURCE).with_suffix("").as_posix().split("/"))


@pytest.mark.parametrize("path", CODE, ids=name)
def test_only_the_last_resorts_catch_everything(path: Path) -> None:
    caught = [
        f"{name(path)}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or {"Exception", "BaseException"} & names_in(node.type))
        and not passes_on(node)
    ]
    assert not caught or path.relative_to(SOURCE).as_posix() in CATCH_ALL, caught


@pytest.mark.parametrize("path", CODE, ids=name)
def test_only_the_settings_read_the_environment(path: Path) -> None:
    readers = {"environ", "getenv"}
    read = [
        f"{name(path)}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in readers)
        or (isinstance(node, ast.Name) and node.id in readers and path.name != "settings.py")
    ]
    assert not read or path == SOURCE / "settings.py", read


def passes_on(handler: ast.ExceptHandler) -> bool:
    """Whether what was caught is raised again in any case."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def names_in(node: ast.expr) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
