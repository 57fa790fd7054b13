"""A decoder whose weights are integers: 8 bits by default, 4 by choice, with its accuracy."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import httpx2
import numpy as np
import pytest

from multimodal_embedding_serving.conversion.probe_inputs import PROBE_TEXTS
from multimodal_embedding_serving.conversion.store import list_bundles
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.settings import Settings
from tests.e2e.conversion import MMES, SERVE, conversions, embed
from tests.repositories import write_repository
from tests.serving import PATIENCE, serving

QWEN = "qwen3-embedding-0.6b"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("checkpoints") / "tiny-qwen", QWEN)


def weigh(models: Path) -> int:
    """Bytes of the only graph there."""
    (bundle,) = list_bundles(models)
    return bundle.graph("text").with_suffix(".bin").stat().st_size


def test_eight_bits_are_the_default_and_four_are_a_choice(checkpoint: Path, tmp_path: Path) -> None:
    models = {bits: tmp_path / bits for bits in ("eight", "four")}
    chosen = Settings(model=str(checkpoint), models_dir=models["eight"], model_cache=False)
    with Engine.open(settings=chosen) as engine:
        eight, vectors = engine.info, engine.embed(texts=PROBE_TEXTS)
    assert eight.precision == "int8-weights"
    assert eight.parity is not None
    assert 0.99 == eight.parity["text"]["bound"] <= eight.parity["text"]["minimum"] < 1
    environ = {"EMBEDDING_OV_MODELS_DIR": str(models["four"])}
    command = [*MMES, "convert", str(checkpoint), "--precision", "int4-weights"]
    done = subprocess.run(
        command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert "precision: int4-weights" in done.stdout
    assert "parity: {'text': 0." in done.stdout
    environ |= {"EMBEDDING_MODEL_NAME": str(checkpoint), "EMBEDDING_PRECISION": "int4-weights"}
    with serving(SERVE, environ=environ) as running:
        four = httpx2.get(f"{running.url}/model/current", trust_env=False).json()
        answer = embed(running, {"type": "text", "text": list(PROBE_TEXTS)}).json()
        assert conversions(running) == 0
    assert (four["precision"], four["parity"]["text"]["bound"]) == ("int4-weights", None)
    actual = np.array(answer["embedding"], np.float32)
    assert np.allclose(np.linalg.norm(actual, axis=1), 1, atol=1e-5)
    least = four["parity"]["text"]["minimum"]
    assert 0.5 < least < eight.parity["text"]["minimum"]
    # what was measured is what is served: the other model is near the truth, too
    assert (actual * vectors).sum(1).min() == pytest.approx(least, abs=0.01)
    assert weigh(models["four"]) < 0.75 * weigh(models["eight"])
