"""What `make serve` shows of pip's output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.install_progress import progress

ROOT = Path(__file__).parent.parent
LINES = """Obtaining file:///src
  Installing build dependencies: started
Collecting openvino<2027,>=2026.2 (from multimodal-embedding-serving==0.1.0)
  Downloading openvino-2026.2.0-19000-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (13 kB)
Downloading openvino-2026.2.0-19000-cp311-cp311-manylinux_2_28_x86_64.whl (53.0 MB)
  Using cached numpy-2.3.5-cp311-cp311-manylinux_2_28_x86_64.whl (16.9 MB)
Downloading https://example.com/simple/av-17.0-cp311-abi3-linux_x86_64.whl (40.1 MB)
Downloading idna-3.11-py3-none-any.whl (71 kB)
Installing collected packages: openvino, numpy, av, idna
Successfully installed openvino-2026.2.0
"""


def test_large_downloads_and_the_number_of_packages_are_shown() -> None:
    assert list(progress(LINES.splitlines(keepends=True))) == [
        "  openvino, 53.0 MB",
        "  numpy, 16.9 MB",
        "  av, 40.1 MB",
        "  unpacking 4 packages",
    ]


def test_a_failure_shows_all_that_pip_said_and_has_its_status() -> None:
    command = [
        sys.executable,
        "-m",
        "scripts.install_progress",
        "--no-index",
        "nothing-of-this-name",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ERROR: " in done.stderr
    assert "done in" not in done.stdout
