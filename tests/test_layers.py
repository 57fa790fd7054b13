"""The house's walls: imports point down the layers, and heavy libraries stay in their rooms."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "multimodal_embedding_serving"
ROOT = Path(__file__).parent.parent / "src" / PACKAGE

# The layers of the design, the lowest first: imports point down, and rooms of one line do not
# import each other.
LAYERS = [
    "errors types",
    "settings catalog monitoring image_arrays sdk",
    "checkpoints transforms client",
    "graph media batching",
    "families inputs",
    "bundles",
    "backends",
    "conversion",
    "engine",
    "api bulk compat",
    "scale diagnostics __init__",
    "cli",
    "__main__",
]
LAYER_OF = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms.split()}


TORCH_ROOMS = {"graph/torch_ops.py", "backends/torch.py"}


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    """The top-level name under the package that a file belongs to."""
    first = path.relative_to(ROOT).parts[0]
    return first.removesuffix(".py")


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import of a file, those inside functions too."""
    relative = path.relative_to(ROOT)
    package = [PACKAGE, *relative.parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def target_room(name: str) -> str | None:
    """The room that a dotted name of our package lies in; None for anyone else's."""
    parts = name.split(".")
    if parts[0] != PACKAGE:
        return None
    if len(parts) == 1:
        return "__init__"
    return parts[1] if parts[1] in LAYER_OF else "__init__"


def runs(code: str) -> str:
    """What a fresh interpreter prints when it runs `code`."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_room_has_a_layer() -> None:
    unknown = {room_of(path) for path in sources()} - set(LAYER_OF)
    assert not unknown, f"give these a layer in LAYERS: {sorted(unknown)}"


def upward_imports() -> set[tuple[str, str]]:
    """(importing file, imported room) of every import that does not point down the layers."""
    return {
        (str(path.relative_to(ROOT)), there)
        for path in sources()
        for _, name in imports_of(path)
        if (there := target_room(name)) and there != (here := room_of(path))
        if LAYER_OF[there] >= LAYER_OF[here]
    }


def test_imports_point_down_the_layers() -> None:
    assert not upward_imports()


def test_no_files_import_each_other_in_a_circle() -> None:
    modules = {
        ".".join([PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(
            ".__init__"
        ): path
        for path in sources()
    }
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        graph[module] = set()
        for _, imported in imports_of(path):
            while imported and imported not in modules:
                imported = imported.rpartition(".")[0]
            graph[module] |= {imported} - {"", module}
    tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle


def test_only_the_torch_rooms_import_torch() -> None:
    torch_users = {
        str(path.relative_to(ROOT))
        for path in sources()
        for _, name in imports_of(path)
        if name.split(".")[0] == "torch"
    }
    assert torch_users <= TORCH_ROOMS


@pytest.mark.parametrize("library", ["transformers", "open_clip", "timm", "torchvision", "optimum"])
def test_nothing_imports_a_model_library(library: str) -> None:
    users = [
        f"{path.name}:{line}"
        for path in sources()
        for line, name in imports_of(path)
        if name.split(".")[0] == library
    ]
    assert not users


def test_the_client_loads_neither_a_web_framework_nor_an_engine() -> None:
    code = f"import {PACKAGE}.client, sys; print(*sys.modules)"
    loaded = {name.split(".")[0] for name in runs(code).split()}
    assert not loaded & {"fastapi", "starlette", "uvicorn", "openvino", "torch", "tokenizers", "av"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import {PACKAGE}, sys; print(*sys.modules)"
    loaded = {name.split(".")[0] for name in runs(code).split()}
    assert not loaded & {"numpy", "openvino", "torch", "fastapi", "PIL", "av", "httpx2"}


def test_the_command_line_starts_without_what_only_its_commands_need() -> None:
    code = f"import {PACKAGE}.cli, sys; print(*sys.modules)"
    loaded = {name.split(".")[0] for name in runs(code).split()}
    assert not loaded & {"numpy", "openvino", "torch", "fastapi", "PIL", "av", "httpx2", "pyarrow"}


def test_importing_every_module_has_no_effect() -> None:
    """No logging set-up, no thread, no network, no file written, no change of the environment."""
    modules = [
        ".".join([PACKAGE, *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        for path in sources()
        if str(path.relative_to(ROOT)) not in TORCH_ROOMS and path.name != "__main__.py"
        if room_of(path) != "scale"
    ]
    code = f"""
import importlib, json, logging, os, sys, threading
sys.dont_write_bytecode = True  # that would be a write of Python's own
before, seen = dict(os.environ), []
def audit(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "subprocess.Popen"):
        seen.append(event)
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        seen.append("open " + str(args[0]))
sys.addaudithook(audit)
for name in {modules!r}:
    importlib.import_module(name)
print(json.dumps(dict(
    seen=seen, handlers=len(logging.root.handlers), threads=threading.active_count(),
    environ={{k: v for k, v in os.environ.items() if before.get(k) != v}},
    heavy=sorted({{"torch", "transformers", "ray", "pyarrow"}} & set(sys.modules)),
)))
"""
    effects = json.loads(runs(code).splitlines()[-1])
    assert effects == {"seen": [], "handlers": 0, "threads": 1, "environ": {}, "heavy": []}
