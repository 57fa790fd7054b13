"""What a replica may use of its machine, and what is said where Ray is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from multimodal_embedding_serving.cli import app
from multimodal_embedding_serving.errors import MissingExtra, SettingsError
from multimodal_embedding_serving.scale.resources import (
    MAX_CPUS,
    Share,
    choose_share,
    node_settings,
    usual_cpus,
)

WHERE = "multimodal_embedding_serving.scale.ray_data"


def test_an_engine_takes_no_more_threads_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREPROCESS_WORKERS", raising=False)
    monkeypatch.delenv("OV_INFERENCE_NUM_THREADS", raising=False)
    settings = node_settings({}, 3.5)
    assert (settings.num_threads, settings.workers) == (3, 3)
    assert node_settings({}, 0.5).workers == 1


def test_what_is_told_wins_over_the_machine_and_the_machine_over_the_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREPROCESS_WORKERS", "5")
    monkeypatch.setenv("EMBEDDING_MODEL_NAME", "CLIP/clip-vit-b-16")
    settings = node_settings({"EMBEDDING_MODEL_NAME": "Builtin/mini"}, 2)
    assert (settings.workers, settings.num_threads, settings.model) == (5, 2, "Builtin/mini")
    with pytest.raises(SettingsError, match="EMBEDDING_PRECISION"):
        node_settings({"EMBEDDING_PRECISION": "f12"}, 2)


def test_an_actor_fits_on_the_smallest_machine_that_computes() -> None:
    def node(cpus: float, alive: bool = True) -> dict[str, object]:
        return {"Alive": alive, "Resources": {"CPU": cpus} if cpus else {"GPU": 1.0}}

    assert usual_cpus([node(0), node(8), node(4), node(2, alive=False)]) == 4
    assert usual_cpus([node(64)]) == MAX_CPUS


def machines(*cpus: float) -> list[dict[str, object]]:
    return [{"Alive": True, "Resources": {"CPU": each}} for each in cpus]


@pytest.mark.parametrize(
    ("total", "free", "cpus"),
    [
        ([2], [2], 2),
        ([2], [1], 1),  # the other one is a replica's
        ([8], [7], 7),
        ([8, 4], [1, 4], 4),
        ([8, 8], [3, 5], 5),
    ],
)
def test_an_actor_takes_what_other_work_leaves(
    total: list[float], free: list[float], cpus: float
) -> None:
    left = {str(number): {"CPU": each} for number, each in enumerate(free)}
    assert choose_share(machines(*total), left) == Share(cpus, 0)


@pytest.mark.parametrize(
    ("total", "free", "wanted", "words"),
    [
        ([2], [0], (0, 0), "needs 2 CPUs on one machine, and of 2 CPUs in all at most 0 are free"),
        ([8], [3], (0, 0), "needs 8 CPUs"),
        ([8], [8], (9, 0), "needs 9 CPUs"),
        ([8], [8], (2, 1), "needs 2 CPUs and 1 GPUs"),
    ],
)
def test_what_a_job_waits_for_is_said_with_what_to_do(
    total: list[float], free: list[float], wanted: tuple[float, float], words: str
) -> None:
    left = {str(number): {"CPU": each} for number, each in enumerate(free)}
    lacking = choose_share(machines(*total), left, *wanted).lacking
    assert lacking is not None
    assert words in lacking
    assert "serve shutdown" in lacking


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, WHERE, raising=False)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_ray(monkeypatch)
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["embed", "a cat", "--ray", "auto", "--out", str(out)])
    assert isinstance(done.exception, MissingExtra)
    assert "ray" in done.exception.message
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [["--ray", "auto"], ["--ray", "auto", "--out", "o", "--to", "lancedb"],
     ["--ray", "auto", "--out", "o", "--kind", "image"]],
)  # fmt: skip
def test_what_a_cluster_does_not_do_is_wrong_usage(words: list[str]) -> None:
    done = CliRunner().invoke(app, ["embed", "a cat", *words])
    assert done.exit_code == 2
    assert "--ray" in done.output
