"""Environments of their own for tests that need other people's packages.

Each is made once, from a dependency group of pyproject.toml, with this package installed as
editable, and kept in .environments/ until the group or the package's own requirements change.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from filelock import FileLock

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / ".environments"
UNREACHABLE = re.compile(r"NewConnectionError|Temporary failure in name resolution")
PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile")


def environment(group: str) -> Path:
    """The Python of an environment with this package and a dependency group.

    Skips the test if the package index can't be reached.
    """
    content = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contents = [sys.version, content["project"], content["dependency-groups"][group]]
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
    folder = FOLDER / f"{group}-{digest[:12]}"
    FOLDER.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):  # other workers of pytest-xdist wait
        if not (folder / "made").exists():
            _make(folder, group)
    return folder / "bin" / "python"


def _make(folder: Path, group: str) -> None:
    for outdated in FOLDER.glob(f"{group}-*"):
        if outdated.is_dir():
            shutil.rmtree(outdated)
    _run(sys.executable, "-m", "venv", str(folder))
    python = str(folder / "bin" / "python")
    _run(python, *PIP, "pip>=25.1")  # knows dependency groups
    _run(python, *PIP, "--editable", str(ROOT), "--group", f"{ROOT / 'pyproject.toml'}:{group}")
    (folder / "made").touch()


def _run(*command: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True)
    if UNREACHABLE.search(done.stderr):
        pytest.skip("the package index can't be reached")
    assert done.returncode == 0, done.stderr
