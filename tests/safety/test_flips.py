"""One flipped bit in any file that the service keeps is never served."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import ROOT, Figure
from tests.safety.flips import Flip
from tests.small_clip import write_clip

FEW, MANY = 6, 200
BUILTIN = ROOT / "src" / "multimodal_embedding_serving" / "builtin" / "mini"


@pytest.fixture(params=["shipped", "converted"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the shipped bundle, or a checkpoint that is converted first."""
    if request.param == "shipped":
        return Path(shutil.copytree(BUILTIN, tmp_path / "mini"))
    return write_clip(tmp_path / "small-clip")


def flip_bits(model: Path, work: Path, count: int, figure: Figure) -> None:
    """Flip `count` bits in a process of its own, and require that no wrong vector was served."""
    seed = int(os.environ.get("FLIP_SEED") or random.randrange(1 << 32))
    command = [sys.executable, "-m", "tests.safety.flips", str(model), str(work)]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, str(count), str(seed)],
        cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"FLIP_SEED={seed}: {lines[-1:]} {done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr
    flips = [Flip(**line) for line in lines if "outcome" in line]
    assert len(flips) == count
    for each in flips:
        if each.outcome == "served":
            assert each.cosine is not None
            assert each.bound is not None
            assert each.cosine >= each.bound, f"FLIP_SEED={seed}: {each}"
        else:
            assert each.outcome == "rejected", f"FLIP_SEED={seed}: {each}"
            assert "\n" not in each.message
    outcomes = Counter(
        each.outcome if each.outcome == "rejected" or not each.log else "rebuilt" for each in flips
    )
    figure(f"{count} flipped bits, {model.name}: {dict(outcomes)}, 0 wrong vectors (seed {seed})")


def test_a_few_flipped_bits_are_not_served(model: Path, tmp_path: Path, figure: Figure) -> None:
    flip_bits(model, tmp_path / "work", FEW, figure)


@pytest.mark.slow
def test_many_flipped_bits_are_not_served(model: Path, tmp_path: Path, figure: Figure) -> None:
    flip_bits(model, tmp_path / "work", MANY, figure)
