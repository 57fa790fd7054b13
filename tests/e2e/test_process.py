"""The server as a process: its signals, its exit statuses, and its first answer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from multimodal_embedding_serving.bundles.bundle import locked
from multimodal_embedding_serving.conversion.build import build_bundle
from multimodal_embedding_serving.conversion.resolve import resolve_model
from multimodal_embedding_serving.settings import Settings
from tests.conftest import Figure
from tests.serving import ADDRESS, PATIENCE, Running, serving
from tests.small_model import DIMENSION, small_conversion

COMMAND = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(small_conversion(), tmp_path_factory.mktemp("models") / "small").path


@pytest.fixture
def running(bundle: Path) -> Iterator[Running]:
    with serving([*COMMAND, "--model", str(bundle)]) as started:
        yield started


def test_it_answers_and_sigterm_ends_it_with_zero(running: Running) -> None:
    given = {"input": {"type": "text", "text": ["cat", "dog"]}}
    answer = httpx2.post(f"{running.url}/embeddings", json=given).json()
    assert len(answer["embedding"][0]) == DIMENSION
    assert answer["model"] == "Tests/small"
    assert running.stop() == 0


def test_the_first_embedding_comes_soon(figure: Figure) -> None:
    started = time.perf_counter()
    with serving(COMMAND) as running:
        given = {"input": {"type": "text", "text": "a cat"}}
        assert httpx2.post(f"{running.url}/embeddings", json=given).status_code == 200
        figure(f"first embedding {time.perf_counter() - started:.2f} s after the process's start")


def test_sigterm_ends_it_while_the_model_is_still_made(tmp_path: Path) -> None:
    """Another process converts the model, so that this one waits for it, listening."""
    environ = {"EMBEDDING_MODEL_NAME": "clip-vit-b-32", "EMBEDDING_OV_MODELS_DIR": str(tmp_path)}
    with locked(resolve_model(Settings.from_env(environ)).model_dir / "conversion"):
        process = subprocess.Popen(COMMAND, env=environ, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        actual = next(filter(None, map(ADDRESS.search, process.stderr)))
        ready = httpx2.get(f"{actual[1]}/ready")
        assert (ready.status_code, ready.json()["percent"]) == (503, 0)
        assert httpx2.get(f"{actual[1]}/live").status_code == 200
        process.terminate()
        assert process.wait(PATIENCE) == 0
        process.stderr.close()


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"EMBEDDING_MODEL_NAME": "no/such"}, "unknown model 'no/such'"),
        ({"EMBEDDING_DEVICE": "TOASTER"}, "EMBEDDING_DEVICE='TOASTER' is not allowed"),
        ({"EMBEDDING_QUEUE_LIMIT": "many"}, "EMBEDDING_QUEUE_LIMIT='many' is not allowed"),
    ],
)
def test_what_cant_be_served_ends_it_with_a_message(environ: dict[str, str], says: str) -> None:
    done = subprocess.run(
        COMMAND, env=environ, capture_output=True, encoding="utf-8", check=False, timeout=PATIENCE
    )
    assert done.returncode != 0
    assert says in done.stderr
    assert "Traceback" not in done.stderr
