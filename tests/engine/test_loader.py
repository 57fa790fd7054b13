"""From a bundle on disk to an engine: real graphs, small."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.backends import compile_tower
from multimodal_embedding_serving.batching.priority import Priority
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.conversion import store
from multimodal_embedding_serving.conversion.build import build_bundle
from multimodal_embedding_serving.conversion.probes import upgrade
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.engine.loader import ModelLoader
from multimodal_embedding_serving.engine.preprocess import prepare_texts
from multimodal_embedding_serving.errors import (
    BundleError,
    InvalidInput,
    SelfTestFailed,
    UnknownModel,
)
from multimodal_embedding_serving.inputs.items import TextItem
from multimodal_embedding_serving.inputs.media_access import MediaAccess
from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Features, Graph, Row, Vectors
from tests.fakes import PATIENCE, FakeGraph
from tests.media_files import photo
from tests.small_model import DIMENSION, small_conversion


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(small_conversion(), tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def settings(bundle: Bundle) -> Settings:
    return Settings.from_env({}, model=str(bundle.path), precision="f32", model_cache=False)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    with Engine.open(settings=settings) as engine:
        yield engine


def test_a_bundle_opens_to_an_engine_that_tells_inputs_apart(engine: Engine) -> None:
    texts = engine.embed(texts=["cat", "dog"])
    images = engine.embed(images=[photo(seed=1), photo(seed=3)])
    for vectors in (texts, images):
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert not np.allclose(vectors[0], vectors[1], atol=1e-3)


def test_the_model_is_described_by_its_bundle(engine: Engine, bundle: Bundle) -> None:
    info = engine.info
    assert (info.id, info.family, info.dimension) == ("Tests/small", "Tests", DIMENSION)
    assert (info.precision, info.inference) == ("f16", "f32")
    assert info.fingerprint == f"{bundle.manifest.fingerprint}-f32-exactjpeg"
    assert (info.text_length, info.image_size) == (12, 16)
    assert set(info.modalities) == {"text", "image"}


def test_a_shorter_length_may_be_set(settings: Settings, bundle: Bundle) -> None:
    with Engine.open(model=str(bundle.path), max_length=8, model_cache=False) as engine:
        assert engine.info.text_length == 8


@pytest.mark.parametrize(
    ("environ", "length"),
    [({}, 16), ({"EMBEDDING_MAX_LENGTH": "8192"}, 8192), ({"EMBEDDING_MAX_LENGTH": "12"}, 12)],
    ids=str,
)
def test_a_limit_that_is_set_wins_over_the_checkpoints_own(
    environ: dict[str, str], length: int, bundle: Bundle
) -> None:
    """Also where it is what would hold if nothing were set."""
    text = replace(
        bundle.manifest.towers["text"],
        transform={"max_length": 32768, "pad_id": 0, "default_length": 16},
    )
    model = Bundle(bundle.path, replace(bundle.manifest, towers={"text": text}))
    settings = Settings.from_env(environ)
    media, metrics = MediaAccess.from_settings(settings, print), Metrics()
    assert ModelLoader(model, settings, media, metrics).describe({}).text_length == length
    media.close()


def test_progress_is_reported(settings: Settings) -> None:
    stages: list[str] = []
    Engine.open(settings=settings, progress=lambda stage, share: stages.append(stage)).close()
    assert stages[-1] == "opening the model"


def test_an_unknown_name_says_where_the_models_are_listed() -> None:
    with pytest.raises(UnknownModel, match=r"use hf:no/such-model"):
        Engine.open("no/such-model")


def test_a_bundle_that_lost_its_tokenizer_is_refused(settings: Settings, tmp_path: Path) -> None:
    conversion = small_conversion(tokenizer=None)
    bundle = build_bundle(conversion, tmp_path / "mute")
    with pytest.raises(BundleError, match="tokenizer"):
        Engine.open(str(bundle.path), model_cache=False)


def test_a_token_id_that_is_none_fails_alone(bundle: Bundle) -> None:
    assert bundle.tokenizer is not None
    transform = TextTransform(bundle.tokenizer, bundle.manifest.towers["text"].transform)
    prepare = prepare_texts(transform)
    good, bad, last = prepare([TextItem("cat"), TextItem((999,)), TextItem((2, 3))])
    assert isinstance(good, Features)
    assert isinstance(bad, InvalidInput)
    assert isinstance(last, Features)


def test_a_tower_that_breaks_while_in_use_is_reported(
    bundle: Bundle, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph that returns NaN from some moment on fails its self-test; `on_broken` is called."""
    graph = Flaky()
    monkeypatch.setattr(
        "multimodal_embedding_serving.engine.loader.compile_tower", lambda *_: graph
    )
    metrics = Metrics()
    loader = ModelLoader(
        bundle, settings, MediaAccess.from_settings(settings, metrics.count_media), metrics
    )
    broken = threading.Event()
    towers = loader.open()
    loader.on_broken = broken.set
    graph.broken = True
    features = Features(np.zeros(3, np.int32), 3, 3)
    (future,) = towers["text"].batcher.submit([features], priority=Priority.BULK)
    with pytest.raises(Exception, match="NaN or infinity"):
        future.result(PATIENCE)
    assert broken.wait(PATIENCE)
    for tower in towers.values():
        tower.close()
    with pytest.raises(SelfTestFailed):
        loader.open()


class Flaky(FakeGraph):
    def __init__(self) -> None:
        super().__init__(DIMENSION)
        self.broken = False

    def __call__(self, rows: Any) -> Any:
        vectors = super().__call__(rows)
        return vectors * np.nan if self.broken else vectors


def test_a_graph_with_other_vectors_is_not_served(
    bundle: Bundle, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the reason: the files are whole, and the vectors are those of another model."""
    whole = upgrade(bundle)
    monkeypatch.setattr(
        f"{ModelLoader.__module__}.compile_tower", lambda *given: Turned(compile_tower(*given))
    )
    with pytest.raises(
        BundleError, match=r"differ from those in its manifest: cosine -?\d\.\d+ < "
    ):
        Engine.open(str(whole.path), precision="f32", model_cache=False)


class Turned:
    """A graph whose vectors are off by the order of their numbers."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.dimension, self.parallel = graph.dimension, graph.parallel
        self.precision = graph.precision

    def __call__(self, rows: Sequence[Row]) -> Vectors:
        return np.ascontiguousarray(self._graph(rows)[:, ::-1])

    def close(self) -> None:
        self._graph.close()


def harmless_damage(path: Path) -> None:
    """Change a blank of a graph's XML into another one: no vector shows it."""
    data = path.read_bytes()
    assert b"\t" in data
    path.write_bytes(data.replace(b"\t", b"\r", 1))


def test_files_are_compared_with_their_checksums_unless_that_is_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = upgrade(build_bundle(small_conversion(), tmp_path / "small"))
    harmless_damage(bundle.graph("image"))
    options: dict[str, Any] = {"precision": "f32", "model_cache": False}
    for verify in ("full", "background"):  # which is for large weights only
        with pytest.raises(BundleError, match=r"image\.xml is damaged.*copy or convert the model"):
            Engine.open(str(bundle.path), verify=verify, **options)
    with Engine.open(str(bundle.path), verify="off", **options) as engine:
        assert engine.healthy
    assert "EMBEDDING_VERIFY=off: the files of Tests/small are used unchecked" in caplog.text


def test_large_weights_may_be_checked_once_the_model_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(store, "BACKGROUND_BYTES", 0)
    caplog.set_level(logging.INFO)
    bundle = upgrade(build_bundle(small_conversion(), tmp_path / "small"))
    path = bundle.weights("image")
    options: dict[str, Any] = {"precision": "f32", "model_cache": False, "verify": "background"}
    with Engine.open(str(bundle.path), **options) as engine:
        join("verify")
        assert "Tests/small: the weights are as they were converted" in caplog.text
        assert engine.healthy
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        engine.check_in_background(bundle, {path.name})
        join("reopen")
        assert engine.dead
        assert not engine.healthy
    assert "could not reload the model: small: image.bin is damaged" in caplog.text


def join(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(PATIENCE)
