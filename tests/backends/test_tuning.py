"""What is measured of a machine, and where it is used. No test depends on how fast anything is."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from multimodal_embedding_serving.backends.tuning import (
    BATCHES,
    TunedConfig,
    candidates,
    choose,
    find_tuned_config,
    tune,
)
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.bundles.checksums import open_json, seal_json
from multimodal_embedding_serving.cli import app
from multimodal_embedding_serving.conversion.build import build_bundle
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import SettingsError
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Modality, Row, Vectors
from tests.fakes import FakeGraph
from tests.small_model import DIMENSION, small_conversion


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return build_bundle(small_conversion(), tmp_path / "models" / "local" / "small" / "f16")


@pytest.fixture
def settings(bundle: Bundle, tmp_path: Path) -> Settings:
    return Settings.from_env({}, model=str(bundle.path), models_dir=tmp_path / "models")


class Machine:
    """Graphs with a clock of their own: a call takes a second, and a tenth more for each item."""

    def __init__(self, call: float = 1.0, item: float = 0.1) -> None:
        self.now, self.call, self.item = 0.0, call, item
        self.opened: list[tuple[Modality, int, int]] = []
        self.graphs: list[FakeGraph] = []

    def clock(self) -> float:
        return self.now

    def compile(self, bundle: Bundle, modality: Modality, settings: Settings) -> FakeGraph:
        assert not settings.model_cache
        self.opened.append((modality, settings.num_streams, settings.num_threads))
        machine = self

        class Timed(FakeGraph):
            def __call__(self, rows: Sequence[Row]) -> Vectors:
                machine.now += machine.call + machine.item * len(rows)
                return super().__call__(rows)

        graph = Timed(DIMENSION)
        self.graphs.append(graph)
        return graph


ENOUGH = 100.0 * len(list(candidates(len(os.sched_getaffinity(0)))))
"""Seconds of that clock in which every way can be measured."""


def ways(*facts: tuple[int, int, float, float]) -> list[TunedConfig]:
    return [
        TunedConfig(streams, 8, batch, rate, latency) for streams, batch, rate, latency in facts
    ]


def test_the_fastest_way_wins_unless_another_is_as_good_and_answers_sooner() -> None:
    assert choose(ways((1, 1, 10, 0.1), (4, 8, 20, 0.4))).streams == 4
    assert choose(ways((1, 1, 19, 0.1), (4, 8, 20, 0.4))).streams == 1
    assert choose(ways((1, 8, 20, 0.1), (1, 4, 19, 0.1), (1, 1, 10, 0.1))).batch == 4


@pytest.mark.parametrize("cores", [1, 2, 3, 4, 6, 16, 64])
def test_the_extremes_are_tried_first_and_no_thread_has_two_streams(cores: int) -> None:
    tried = list(candidates(cores))
    assert tried[0] == (1, cores)
    assert tried[min(1, cores - 1)] == (cores, cores)
    assert len(set(tried)) == len(tried)
    assert all(1 <= streams <= threads <= cores for streams, threads in tried)


def test_every_way_is_measured_and_the_best_is_written_down(
    bundle: Bundle, settings: Settings
) -> None:
    machine = Machine()
    best = tune(bundle, settings, seconds=ENOUGH, compiler=machine.compile, clock=machine.clock)
    assert set(best) == {"text", "image"}
    assert all(graph.closed for graph in machine.graphs)
    for modality, way in best.items():
        assert way.batch == max(
            batch for batch in BATCHES[modality] if batch <= 32 or way.batch > 32
        )
        assert find_tuned_config(bundle, modality, settings) == way


def test_a_time_that_is_too_short_leaves_things_as_they_were(
    bundle: Bundle, settings: Settings
) -> None:
    machine = Machine()
    assert tune(bundle, settings, seconds=3, compiler=machine.compile, clock=machine.clock) == {}
    assert all(graph.closed for graph in machine.graphs)
    assert machine.now < 10  # one way of each tower, and no second one
    assert find_tuned_config(bundle, "text", settings) is None


@pytest.fixture
def tuned(bundle: Bundle, settings: Settings) -> Path:
    machine = Machine()
    tune(bundle, settings, seconds=ENOUGH, compiler=machine.compile, clock=machine.clock)
    (place,) = settings.models_dir.rglob("tuning-*.json")
    return place


@pytest.mark.parametrize(
    "changes",
    [
        {"num_streams": 3},
        {"num_threads": 1},
        {"num_requests": 2},
        {"performance_mode": "THROUGHPUT"},
        {"device": "GPU"},
        {"precision": "f32"},
    ],
)
def test_what_was_measured_holds_for_its_settings_only(
    changes: dict[str, Any], bundle: Bundle, settings: Settings, tuned: Path
) -> None:
    assert find_tuned_config(bundle, "text", settings)
    assert not find_tuned_config(bundle, "text", dataclasses.replace(settings, **changes))


def test_another_model_and_a_damaged_file_have_nothing_measured(
    bundle: Bundle, settings: Settings, tuned: Path
) -> None:
    manifest = dataclasses.replace(bundle.manifest, fingerprint="another")
    assert not find_tuned_config(Bundle(bundle.path, manifest), "text", settings)
    for damaged in ("", "{}", '{"towers": {"text": {"streams": 1}}}', "[]"):
        tuned.write_text(damaged, "utf-8")
        assert not find_tuned_config(bundle, "text", settings)


def test_a_server_opens_its_graphs_the_way_that_was_measured(
    bundle: Bundle, settings: Settings, tuned: Path
) -> None:
    kept = open_json(tuned.read_bytes())
    kept["towers"]["text"] |= {"streams": 2, "threads": 2, "batch": 5}
    tuned.write_text(seal_json(kept), "utf-8")
    with Engine.open(settings=settings) as engine:
        assert engine.towers["text"].graph.parallel == 2
        assert len(engine.embed(texts=["cat"] * 3)) == 3


def test_the_command_measures_and_says_what_it_found(settings: Settings) -> None:
    environ = {"EMBEDDING_OV_MODELS_DIR": str(settings.models_dir)}
    command = ["tune", "--model", settings.model, "--seconds", "0.5"]
    done = CliRunner().invoke(app, command, env=environ)
    assert done.exit_code == 0, done.output
    assert all(f"{modality}: " in done.stdout for modality in ("text", "image"))


def test_torch_has_nothing_to_tune(settings: Settings) -> None:
    environ = {"EMBEDDING_USE_OV": "false"}
    done = CliRunner().invoke(app, ["tune", "--model", settings.model], env=environ)
    assert isinstance(done.exception, SettingsError)
