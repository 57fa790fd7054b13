"""`mmes bench`: what is measured, and of what. How fast that is decides no test."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from multimodal_embedding_serving.bulk.items import Kind
from multimodal_embedding_serving.diagnostics.benchmark import make_photos, measure
from tests.bulk.fakes import FakeModel
from tests.cli.running import mmes
from tests.serving import Running


@pytest.mark.parametrize(
    ("kinds", "measured"),
    [(("text", "image", "video"), ["text", "image"]), (("text",), ["text"])],
)
def test_what_the_model_embeds_is_measured(
    tmp_path: Path, kinds: tuple[Kind, ...], measured: list[str]
) -> None:
    model = FakeModel(kinds=kinds)
    rates = asyncio.run(measure(model, tmp_path, 0.05))
    assert [rate.kind for rate in rates] == measured
    assert all(rate.per_second > 0 and rate.single_ms > 0 for rate in rates)
    assert all(1 <= rate.singles <= 50 for rate in rates)


def test_no_input_is_in_flight_twice(tmp_path: Path) -> None:
    model = FakeModel()
    asyncio.run(measure(model, tmp_path, 0.05))
    texts = [each for each in model.requests if not each.endswith(".jpg")]
    assert len(texts) == len(set(texts))
    photos = make_photos(tmp_path, 20)
    assert len({path.read_bytes() for path in photos}) == 20


@pytest.mark.slow
def test_the_shipped_model_is_measured_here() -> None:
    done = mmes("bench", "--seconds", "0.1", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model"] == "Builtin/mini"
    assert [rate["kind"] for rate in report["rates"]] == ["text", "image"]


@pytest.mark.slow
def test_a_server_is_measured_from_here(server: Running) -> None:
    done = mmes("bench", "--seconds", "0.1", "--server", server.url)
    assert done.returncode == 0, done.stderr
    first, texts, photos = done.stdout.splitlines()
    assert first.startswith("Builtin/mini (")
    assert texts.startswith("texts of 8 words: ")
    assert photos.startswith("JPEGs of 640x480: ")
