"""The notebooks of docs/ run, and what they show is what they show when they run."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.run_notebooks import NOTEBOOKS
from tests.environments import ROOT, environment

MEASURED = re.compile(r"#* ?-?\d+\.\d+")
"""A score, perhaps with its bar: the last digits depend on the CPU."""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_shows_what_it_shows_when_it_runs(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [environment("notebook"), "-m", "scripts.run_notebooks", "--to", tmp_path],
        env={**os.environ, "IPYTHONDIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    shown, now = (
        [texts(cell) for cell in json.loads(file.read_text("utf-8"))["cells"]]
        for file in (path, tmp_path / path.name)
    )
    assert shown == now, "run `make notebooks`"
    assert sum(map(len, now)) > 20


def texts(cell: dict[str, Any]) -> list[str]:
    """The lines that a cell printed or returned, sorted: scores may be close to each other."""
    outputs = cell.get("outputs", [])
    found = [each.get("text") or each.get("data", {}).get("text/plain", "") for each in outputs]
    lines = "".join("".join(each) + "\n" for each in found).splitlines()
    return sorted(MEASURED.sub("", line) for line in lines)
