"""The package beside the libraries of programs written for MME, at both ends of their versions.

Each environment is installed from the package index as a user would, and runs the tests of the
hub's client against the loopback hub.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TOOLS = ["hypothesis", "pytest", "pytest-asyncio", "pyyaml"]
ENVIRONMENTS = {
    "what MME's users have": (["huggingface_hub<1", "transformers==4.57.*"], "0.", "4.57."),
    "the newest": (["huggingface_hub>=2", "transformers>=5"], "2.", "5."),
}
HUB_TESTS = ["tests/checkpoints/test_hub.py", "tests/checkpoints/test_hub_faults.py"]
VERSIONS = """
from importlib.metadata import version
import multimodal_embedding_serving, transformers, huggingface_hub
print(version("huggingface_hub"), version("transformers"))
model = multimodal_embedding_serving.get_model_handler("Builtin/mini")
model.load_model()
print(model.encode_text(["a cat"]).shape)
"""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_it_installs_and_downloads_beside_them(name: str, tmp_path: Path) -> None:
    requirements, hub, transformers = ENVIRONMENTS[name]
    python = str(tmp_path / "bin" / "python")
    assert run(sys.executable, "-m", "venv", str(tmp_path)).returncode == 0
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile")
    done = run(*pip, str(ROOT), *requirements, *TOOLS)
    if re.search(r"NewConnectionError|Temporary failure in name resolution", done.stderr):
        pytest.skip("the package index can't be reached")
    assert done.returncode == 0, done.stderr
    done = run(python, "-c", VERSIONS)
    assert done.returncode == 0, done.stderr
    versions, shape = done.stdout.splitlines()
    assert [version.startswith(start) for version, start in zip(
        versions.split(), (hub, transformers), strict=True
    )] == [True, True]  # fmt: skip
    assert shape == "(1, 384)"
    done = run(python, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", *HUB_TESTS)
    assert done.returncode == 0, done.stdout
