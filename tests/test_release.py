"""The supply chain: lock, SBOM, image and wheel agree, and the same commit gives the same wheel."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.check_wheels import download, for_python, locked
from scripts.make_sbom import tidy

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
BUILD_LOCK = (ROOT / "requirements-build.lock").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SBOM = json.loads((ROOT / "sbom.cdx.json").read_text("utf-8"))
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text("utf-8")
BUILD_STAGE = DOCKERFILE.partition(" AS build\n")[2].partition("\nFROM ")[0]
UNREACHABLE = re.compile(r"NewConnectionError|Temporary failure in name resolution")


@pytest.mark.parametrize("lock", [LOCK, BUILD_LOCK], ids=["runtime", "build"])
def test_every_locked_package_has_one_version_and_hashes(lock: str) -> None:
    for requirement in locked(lock):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
    entries = re.split(r"\n(?=\S)", lock.strip())
    assert len(entries) == len(list(locked(lock)))
    for entry in entries:
        assert re.fullmatch(r"[^\n]+ \\(\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+", entry), entry


def test_neither_lock_nor_sbom_names_an_index() -> None:
    for text in (LOCK, BUILD_LOCK, json.dumps({**SBOM, "$schema": ""})):
        assert not re.search(r"://|-index|find-links|trusted-host", text)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_the_lock_has_every_dependency_in_an_allowed_version(python: str) -> None:
    pins = {canonicalize_name(each.name): each for each in map(Requirement, chosen(python))}
    for line in PROJECT["project"]["dependencies"]:
        wanted = Requirement(line)
        (pin,) = pins[canonicalize_name(wanted.name)].specifier
        assert wanted.specifier.contains(pin.version), line
    (hatchling,) = (each for each in locked(BUILD_LOCK) if each.name == "hatchling")
    (built_with,) = hatchling.specifier
    assert all(
        Requirement(line).specifier.contains(built_with.version)
        for line in PROJECT["build-system"]["requires"]
    )


def chosen(python: str) -> list[str]:
    return for_python(python, locked(LOCK))


def test_a_marker_is_read_for_the_python_that_is_asked_about() -> None:
    text = 'a==1 ; python_version < "3.12"\na==2 ; python_version >= "3.12" \\\n --hash=x\n'
    assert for_python("3.11", locked(text)) == ["a==1"]
    assert for_python("3.14", locked(text)) == ["a==2"]


def test_the_sbom_lists_what_the_lock_installs_on_linux() -> None:
    listed = {canonicalize_name(each["name"]): each["version"] for each in SBOM["components"]}
    expected = {}
    for each in map(Requirement, chosen("3.11")):
        (pin,) = each.specifier
        expected[canonicalize_name(each.name)] = pin.version
    assert listed == expected
    main = SBOM["metadata"]["component"]
    assert (main["name"], main["version"]) == (
        PROJECT["project"]["name"],
        PROJECT["project"]["version"],
    )
    assert (SBOM["bomFormat"], SBOM["specVersion"]) == ("CycloneDX", "1.6")


def test_the_sbom_is_a_graph_of_licensed_packages() -> None:
    refs = {each["bom-ref"] for each in SBOM["components"]}
    graph = {each["ref"]: each.get("dependsOn", []) for each in SBOM["dependencies"]}
    assert set(graph) == refs | {SBOM["metadata"]["component"]["bom-ref"]}
    reached, pending = set[str](), [SBOM["metadata"]["component"]["bom-ref"]]
    while pending:
        ref = pending.pop()
        if ref not in reached:
            reached.add(ref)
            pending += graph[ref]
    assert reached == set(graph)
    assert all(each["licenses"] for each in SBOM["components"])


def test_the_sbom_does_not_depend_on_the_order_or_the_tools_links() -> None:
    document: dict[str, Any] = {
        "$schema": "s", "bomFormat": "CycloneDX", "specVersion": "1.6",
        "metadata": {"tools": {"components": [
            {"type": "application", "name": "t", "version": "1", "externalReferences": [1]}
        ]}},
        "components": [
            {"bom-ref": "b", "name": "b", "externalReferences": [{"url": "x"}], "description": "d"},
            {"bom-ref": "a", "name": "a"},
            {"bom-ref": "pip", "name": "pip"},
        ],
        "dependencies": [{"ref": "b"}, {"ref": "a", "dependsOn": ["pip", "b"]}, {"ref": "pip"}],
    }  # fmt: skip
    project = {"name": "main", "version": "1", "dependencies": ["A>=1"]}
    backwards = {**document, "components": document["components"][::-1]}
    backwards = json.loads(json.dumps(backwards))
    first, second = (tidy(each, project) for each in (document, backwards))
    assert first == second
    assert "externalReferences" not in json.dumps(first)
    assert first["dependencies"][-1] == {"ref": "main", "dependsOn": ["a"]}


def test_the_image_installs_the_lock_and_the_tested_python() -> None:
    commands = re.split(r"&&|\n(?=RUN|COPY)", BUILD_STAGE)
    installs = [each for each in commands if re.search("/pip (install|wheel)", each)]
    assert len(installs) == 4
    for command in installs:
        hashed = re.search(r"--require-hashes -r requirements(?:-build)?\.lock", command)
        assert hashed or "--no-deps" in command, command
    (python,) = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE, re.M)
    assert f"Programming Language :: Python :: {python}" in PROJECT["project"]["classifiers"]


def test_classifiers_name_only_the_python_that_the_tests_run_on() -> None:
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert named == [f"{sys.version_info.major}.{sys.version_info.minor}"]


def build(folder: Path, epoch: str) -> Path:
    """The wheel of a copy of the sources, made by the build backend of the locked version."""
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "sbom.cdx.json"):
        shutil.copy(ROOT / name, source / name)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", source / "src", ignore=ignore, copy_function=shutil.copyfile)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"),
            *("--no-deps", "--wheel-dir", str(folder), str(source)),
        ],
        env={**os.environ, "SOURCE_DATE_EPOCH": epoch},
        capture_output=True,
        text=True,
        check=False,
    )
    if UNREACHABLE.search(done.stderr):
        pytest.skip("the package index can't be reached")
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.slow
def test_the_same_sources_give_the_same_wheel_with_the_sbom(tmp_path: Path) -> None:
    first, second, later = (
        build(tmp_path / name, epoch)
        for name, epoch in (("a", "1700000000"), ("b", "1700000000"), ("c", "1800000000"))
    )
    digests = [hashlib.sha256(each.read_bytes()).hexdigest() for each in (first, second, later)]
    assert digests[0] == digests[1] != digests[2]
    with zipfile.ZipFile(first) as wheel:
        (name,) = (each for each in wheel.namelist() if "/sboms/" in each)
        assert name.endswith(".dist-info/sboms/sbom.cdx.json")
        assert json.loads(wheel.read(name)) == SBOM


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.12", "3.13", "3.14"])
def test_every_dependency_has_a_wheel_for_newer_pythons(python: str) -> None:
    wheels, problem = download(python)
    if UNREACHABLE.search(problem):
        pytest.skip("the package index can't be reached")
    assert wheels == len(chosen(python)), problem
