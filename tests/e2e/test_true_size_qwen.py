"""Qwen3-Embedding-0.6B at its true size: what converting it takes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from multimodal_embedding_serving.catalog import resolve
from tests.e2e.conversion import CONVERTED, MMES
from tests.lazy import lazy

random_checkpoints = lazy("benchmarks.random_checkpoints")

pytestmark = pytest.mark.slow


def test_a_decoder_of_true_size_is_streamed(tmp_path: Path, figure: Callable[[str], None]) -> None:
    spec = resolve("qwen3-embedding-0.6b")
    random_checkpoints.write_repository(spec, tmp_path / "hub")
    environ = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    environ |= {"EMBEDDING_OV_MODELS_DIR": str(tmp_path / "models")}
    command = [*MMES, "convert", spec.id]
    done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True)
    actual = CONVERTED.search(done.stderr)
    assert actual, done.stderr
    told = {name: float(value) for name, value in actual.groupdict().items()}
    figure(
        f"{spec.id} of true size: {told['bundle_mb']:.0f} MB; private memory while building "
        f"{told['building_mb']:.0f} MB, while checking accuracy {told['certifying_mb']:.0f} MB"
    )
    assert told["bundle_mb"] > 500
    assert told["building_mb"] < 2 * told["bundle_mb"]
