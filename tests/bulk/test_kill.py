"""`mmes embed --out` in a process of its own that is killed and restarted."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.bulk.fakes import Row, errors, rows
from tests.serving import PATIENCE

PHOTOS, KILLS = 40, 2
MANY, MANY_KILLS = 300, 20
EXACT = {**os.environ, "EMBEDDING_PRECISION": "f32"}
"""A resumed job forms other batches, which round differently in bf16, the default of some CPUs."""


def paint(folder: Path, count: int) -> None:
    """Small photos; every tenth is cut off, and one is not an image at all."""
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 255, (6, 8, 3), np.uint8)
        path = folder / f"{number % 7}" / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).save(path)
        if number % 10 == 5:
            path.write_bytes(path.read_bytes()[:500])
    (folder / "text.jpg").write_text("not an image")


def command(folder: Path, out: Path) -> list[str]:
    embed = [sys.executable, "-m", "multimodal_embedding_serving", "embed"]
    return [*embed, str(folder), "--out", str(out), "--publish-every", "4", "--json"]


def finish(folder: Path, out: Path) -> dict[str, int]:
    """Run to the end -> the report."""
    done = subprocess.run(
        command(folder, out), env=EXACT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 4, done.stderr  # some are cut off
    report: dict[str, int] = json.loads(done.stdout)
    return report


def kill_after(folder: Path, out: Path, parts: int, delay: float) -> None:
    """Start a run, and kill it `delay` seconds after it has published `parts` more parts."""
    state = out.with_name(out.name + ".state")

    def published() -> int:
        return len(list(state.glob("part-*")))

    before = published()
    process = subprocess.Popen(
        command(folder, out), env=EXACT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + PATIENCE
    while process.poll() is None and 0 <= published() - before < parts:
        assert time.monotonic() < limit
        threading.Event().wait(0.002)
    threading.Event().wait(delay)
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE)


def assert_same_rows(actual: list[Row], whole: list[Row]) -> None:
    """The same rows, in the same order; the vectors to rounding (batches differ)."""
    assert [row[:4] for row in actual] == [row[:4] for row in whole]
    left, right = (np.array([row[4] for row in each]) for each in (actual, whole))
    np.testing.assert_allclose(left, right, atol=2e-6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    paint(folder, PHOTOS)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nobody interrupts."""
    out = tmp_path_factory.mktemp("whole") / "vectors.parquet"
    report = finish(folder, out)
    assert report["embedded"] == report["rows"] == len(rows(out))
    return out


def test_a_job_that_is_killed_again_and_again_loses_and_repeats_nothing(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    chance = random.Random(20)
    out = tmp_path / "vectors.parquet"
    for _ in range(KILLS):
        kill_after(folder, out, parts=chance.randint(1, 3), delay=chance.uniform(0, 0.05))
    report = finish(folder, out)
    assert report["unchanged"] > 0
    assert report["embedded"] + report["unchanged"] + report["failed"] == PHOTOS + 1
    assert_same_rows(rows(out), rows(whole))
    assert errors(out) == errors(whole)
    assert set(errors(out).values()) == {"invalid_input", "unrecognised_media"}


@pytest.mark.slow
def test_a_second_run_embeds_what_is_new(folder: Path, whole: Path) -> None:
    before = rows(whole)
    source = folder / "0" / "0000.jpg"
    (folder / "1" / "zz.jpg").write_bytes(source.read_bytes())
    report = finish(folder, whole)
    (folder / "1" / "zz.jpg").unlink()
    assert (report["embedded"], report["failed"], report["errors"]) == (1, 0, len(errors(whole)))
    after = rows(whole)
    assert after[:-1] == before
    assert after[-1][0] == "zz.jpg"
    copied = next(row for row in before if row[0] == "0000.jpg")
    np.testing.assert_allclose(after[-1][4], copied[4], atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vectors.npy", "vectors.parquet"])
def test_many_moments_of_a_kill(tmp_path: Path, name: str) -> None:
    folder, chance = tmp_path / "photos", random.Random(os.urandom(8))
    paint(folder, MANY)
    finish(folder, tmp_path / "whole.jsonl")
    out = tmp_path / name
    for _ in range(MANY_KILLS):
        kill_after(folder, out, parts=chance.randint(0, 3), delay=chance.uniform(0, 0.2))
    finish(folder, out)
    assert_same_rows(rows(out), rows(tmp_path / "whole.jsonl"))
    assert errors(out) == errors(tmp_path / "whole.jsonl")
