"""The house rules that a machine can read: one test a rule, which names every offending place."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "multimodal_embedding_serving"

MAX_FILE_LINES = 500
"""About 400 lines is a moment to look for the missing noun; this is where looking is not enough."""
MAX_FUNCTION_LINES = 40
"""A screen."""

# Written apart, so that this file does not find itself.
LOOSE_ENDS = re.compile(
    "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error"])
)

VAGUE = set("util helper common base manager wrapper handler misc factory factories".split())
"""Names of modules and folders that say nothing; so do their plurals."""
CONTRACT_NAMES = {
    # The SDK of Intel's service, which compat/ keeps, calls a model a handler:
    # `register_model_handler` is part of its interface.
    "compat/handlers.py",
}

CATCH_ALL = {
    # The batcher hands whatever went wrong to the callers of the batch.
    "batching/batcher.py",
    # Part of the batcher: a copy that can't be opened costs nobody an answer.
    "batching/replica.py",
    # The last resort of the app: an answer of 500 instead of a broken connection.
    "api/middleware.py",
}

SLOW_IMPORTS = {
    *("cohere", "haystack", "kubernetes_validate", "langchain_openai", "litellm", "llama_index"),
    *("nncf", "openai", "peft", "playwright", "ray", "schemathesis", "tiktoken", "torch"),
    "transformers",
    *("benchmarks.random_checkpoints", "multimodal_embedding_serving.backends.torch"),
    *("multimodal_embedding_serving.graph.torch_ops", "safetensors.torch"),
}
"""Libraries, and our modules that load them, which take up to seconds to import."""

SUPERLATIVE = re.compile(r"_?(MOST|LEAST|LONGEST|SHORTEST)(_|$)")


def files(*folders: str) -> Iterator[Path]:
    """Hidden folders hold other people's files: the benchmark's environments are such."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "/." not in f"/{path.relative_to(ROOT)}":
                yield path


def every_file() -> Iterator[Path]:
    return files("src", "tests", "scripts", "benchmarks")


@cache
def nodes(path: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def place(path: Path, line: int | None = None) -> str:
    return str(path.relative_to(ROOT)) + (f":{line}" if line else "")


def report(rule: str, places: list[str]) -> str:
    return "\n  ".join([f"{rule}:", *places])


def test_a_file_fits_its_room() -> None:
    long = [
        f"{place(path)}: {lines} lines"
        for path in every_file()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    ]
    assert not long, report(f"a file has at most {MAX_FILE_LINES} lines", long)


def test_a_function_fits_a_screen() -> None:
    long = [
        f"{place(path, node.lineno)} {node.name}: {lines} lines"
        for path in files("src")
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, report(f"a function has at most {MAX_FUNCTION_LINES} lines", long)


def test_nothing_is_left_for_later() -> None:
    loose = [
        f"{place(path, number)} {line.strip()}"
        for path in every_file()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if LOOSE_ENDS.search(line)
    ]
    assert not loose, report("finish it, or file an issue", loose)


def test_a_file_is_named_by_a_noun_of_the_trade() -> None:
    vague = [
        place(path)
        for path in files("src")
        if any(is_vague(part) for part in path.relative_to(SOURCE).with_suffix("").parts)
        and path.relative_to(SOURCE).as_posix() not in CONTRACT_NAMES
    ]
    assert not vague, report("name a module or folder after what it holds or does", vague)


def is_vague(name: str) -> bool:
    return name in VAGUE or name.removesuffix("s") in VAGUE


def test_only_the_last_resorts_catch_everything() -> None:
    caught = [
        place(path, node.lineno)
        for path in files("src")
        if path.relative_to(SOURCE).as_posix() not in CATCH_ALL
        for node in nodes(path)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or {"Exception", "BaseException"} & names_in(node.type))
        and not raises_again(node)
    ]
    assert not caught, report("catch the exceptions that are meant, or raise again", caught)


def raises_again(handler: ast.ExceptHandler) -> bool:
    """Whether what was caught is raised again in any case."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def names_in(node: ast.expr) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def test_only_the_settings_read_the_environment() -> None:
    readers = {"environ", "getenv"}
    reads = [
        place(path, node.lineno)
        for path in files("src")
        if path != SOURCE / "settings.py"
        for node in nodes(path)
        if (isinstance(node, ast.Attribute) and node.attr in readers)
        or (isinstance(node, ast.Name) and node.id in readers)
    ]
    assert not reads, report("read environment variables in settings.py, and pass them on", reads)


def test_a_library_has_one_range_of_versions() -> None:
    """The group `lint` repeats what the runtime asks for, and must not drift away from it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    optional = project["project"]["optional-dependencies"].values()
    groups = project["dependency-groups"].values()
    ranges: dict[str, set[str]] = defaultdict(set)
    for listing in [project["project"]["dependencies"], *optional, *groups]:
        for text in listing:
            if isinstance(text, str):  # and not {include-group = …}
                requirement = Requirement(text)
                ranges[requirement.name].add(f"{requirement.specifier}; {requirement.marker}")
    # The oracle of tests/parity is one release; users of the backend may have any from 2.9 on.
    assert ranges.pop("torch") == {">=2.9; None", "==2.13.0; None"}
    several = [
        f"{name}: {', '.join(sorted(each))}" for name, each in ranges.items() if len(each) > 1
    ]
    assert not several, report("give a library the same range everywhere", several)


def test_a_limit_is_named_max_or_min() -> None:
    limits = [
        f"{place(path, node.lineno)} {node.id}"
        for path in every_file()
        for node in nodes(path)
        if isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Store)
        and SUPERLATIVE.match(node.id)
    ]
    assert not limits, report("constants that are limits begin with MAX_ or MIN_", limits)


def test_collecting_the_tests_loads_no_slow_library() -> None:
    """Each worker of pytest collects them all: `tests/lazy.py` puts an import off."""
    eager = [
        f"{place(path, node.lineno)} imports {name}"
        for path in files("tests")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        for name in imported_names(node)
        if any(f"{name}.".startswith(f"{slow}.") for slow in SLOW_IMPORTS)
        if "golden" not in path.parts  # scripts beside what they wrote
    ]
    assert not eager, report("import these lazily, or inside a function", eager)


def imported_names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []
