"""Writes sbom.cdx.json: the packages of requirements.lock on x86-64 Linux, as CycloneDX.

    python -m scripts.make_sbom sbom.cdx.json

Installs the lock into a fresh environment and has cyclonedx-bom describe it: versions, licenses,
and what depends on what. The same lock gives the same file: there is no time, no random number and
no address of a package index in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCK = ROOT / "requirements.lock"
INSTALLERS = ("pip", "setuptools")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def describe(python: Path) -> dict[str, Any]:
    """CycloneDX of an environment, by cyclonedx-bom."""
    tool = str(Path(sys.executable).with_name("cyclonedx-py"))
    options = ["--output-reproducible", "--of", "JSON", "--spec-version", "1.6"]
    document: dict[str, Any] = json.loads(run(tool, "environment", *options, str(python)))
    return document


def tidy(document: dict[str, Any], project: dict[str, Any]) -> dict[str, Any]:
    """Name the main component, and drop what every environment has (INSTALLERS), links, and the
    description of the tool."""
    components = [each for each in document["components"] if each["name"] not in INSTALLERS]
    for each in components:
        each.pop("externalReferences", None)
        each.pop("description", None)
    refs = {each["bom-ref"] for each in components}
    used = [each for each in document.get("dependencies", []) if each["ref"] in refs]
    for each in used:  # a package may name setuptools, too
        each["dependsOn"] = sorted(refs.intersection(each.get("dependsOn", [])))
    direct = {canonicalize_name(Requirement(line).name) for line in project["dependencies"]}
    needed = [each["bom-ref"] for each in components if canonicalize_name(each["name"]) in direct]
    name, version = project["name"], project["version"]
    root = {"ref": name, "dependsOn": sorted(needed)}
    tools = [
        {"type": each["type"], "name": each["name"], "version": each["version"]}
        for each in document["metadata"]["tools"]["components"]
    ]
    main = {
        "type": "application",
        "bom-ref": name,
        "name": name,
        "version": version,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "purl": f"pkg:pypi/{name}@{version}",
    }
    return {
        "$schema": document["$schema"],
        "bomFormat": document["bomFormat"],
        "specVersion": document["specVersion"],
        "version": 1,
        "metadata": {"component": main, "tools": {"components": tools}},
        "components": sorted(components, key=lambda each: str(each["bom-ref"])),
        "dependencies": sorted([root, *used], key=lambda each: str(each["ref"])),
    }


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "venv", folder)
        python = Path(folder, "bin", "python")
        pip = (str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        run(*pip, "--no-compile", "--require-hashes", "--requirement", str(LOCK))
        document = tidy(describe(python), project)
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    Path(sys.argv[1]).write_text(text, encoding="utf-8")
    print(f"{sys.argv[1]}: {len(document['components'])} packages")


if __name__ == "__main__":
    main()
