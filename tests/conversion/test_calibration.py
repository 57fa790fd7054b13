"""INT8 weights and activations: what they are calibrated on, and what is served where they fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.conversion import calibration, convert
from multimodal_embedding_serving.conversion.calibration import CAPTIONS, CROPS, sample_rows
from multimodal_embedding_serving.conversion.probe_inputs import PROBE_TEXTS
from multimodal_embedding_serving.conversion.store import load_bundle
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import BundleError, MissingExtra
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.graph.openvino_ops import FLOAT32, emit_model
from multimodal_embedding_serving.graph.runtime import opset as op
from multimodal_embedding_serving.settings import Settings
from tests.media_files import photo, write_image
from tests.parity.towers import read_towers
from tests.small_clip import write_clip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("checkpoints") / "tiny-clip")


@pytest.fixture
def settings(checkpoint: Path, tmp_path: Path) -> Settings:
    return Settings.from_env(
        {}, model=str(checkpoint), models_dir=tmp_path / "models", precision="int8",
        model_cache=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def plans(checkpoint: Path) -> Sequence[TowerSpec]:
    config = json.loads((checkpoint / "config.json").read_text())
    return read_towers([checkpoint / "model.safetensors"], config).plans


def rows(plans: Sequence[TowerSpec], checkpoint: Path, **changes: Any) -> list[int]:
    """How many samples each tower gets: images, then texts."""
    settings = Settings.from_env({}, **changes)
    tokenizer = checkpoint / "tokenizer.json"
    return [len(sample_rows(plan, tokenizer, settings)) for plan in plans]


def test_the_shipped_photos_and_captions_calibrate(
    plans: Sequence[TowerSpec], checkpoint: Path, samples: Path
) -> None:
    photos = len(list(samples.glob("*.jpg")))
    assert rows(plans, checkpoint) == [photos * len(CROPS) * 2, len(CAPTIONS)]
    assert not set(CAPTIONS) & set(PROBE_TEXTS)


def test_a_folder_calibrates_and_what_is_no_picture_is_passed_over(
    plans: Sequence[TowerSpec], checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "a.jpg").write_bytes(write_image("jpeg"))
    (tmp_path / "b.png").write_bytes(write_image("png", photo(seed=2)))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "lines.txt").write_text("one\n\ntwo\nthree\n", "utf-8")
    assert rows(plans, checkpoint, calibration_dir=tmp_path) == [2, 3]


def test_a_folder_with_nothing_of_use_is_refused(
    plans: Sequence[TowerSpec], checkpoint: Path, tmp_path: Path
) -> None:
    for plan, what in zip(plans, ("images", "lines in .txt files"), strict=True):
        with pytest.raises(BundleError, match=f"no {what}"):
            sample_rows(plan, checkpoint / "tokenizer.json", Settings(calibration_dir=tmp_path))
        with pytest.raises(BundleError, match="EMBEDDING_CALIBRATION_DIR is not a folder"):
            missing = Settings(calibration_dir=tmp_path / "missing")
            sample_rows(plan, checkpoint / "tokenizer.json", missing)


def test_the_missing_extra_is_named_before_anything_is_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="quantize"):
        load_bundle(settings)
    assert not list(settings.models_dir.rglob("*.xml"))


def test_below_its_bound_floats_are_served_and_it_is_said(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What quantises here rounds every weight to two bits' worth: far too coarse."""

    def ruin(plan: TowerSpec, model: object, **_: object) -> object:
        coarse = emit_model(plan.inputs, plan.build, FLOAT32)
        for node in coarse.get_ops():
            if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) > 1:
                values = np.array(node.data)
                if values.dtype == np.float32:
                    step = np.abs(values).max() / 2 or 1
                    rough = op.constant((np.rint(values / step) * step).astype(np.float32))
                    for target in node.output(0).get_target_inputs():
                        target.replace_source_output(rough.output(0))
        return coarse

    monkeypatch.setattr(convert, "require_nncf", lambda: None)
    monkeypatch.setattr(convert, "quantize_activations", ruin)
    bundle = load_bundle(settings)
    assert bundle.manifest.precision == "f16"
    assert bundle.path.name == "int8"
    with Engine.open(settings=settings) as engine:
        assert engine.info.precision == "f16"
        assert "serving f16 instead of int8" in (engine.info.notice or "")
        assert "to float32 < 0.98" in (engine.info.notice or "")
    assert load_bundle(settings) == bundle


@pytest.mark.slow
def test_a_quantised_model_reaches_its_bound_and_is_served(settings: Settings) -> None:
    pytest.importorskip("nncf", reason="nncf is not installed (extra quantize)")
    bundle = load_bundle(settings)
    assert bundle.manifest.precision == "int8", bundle.manifest.notice
    assert min(each["minimum"] for each in bundle.manifest.parity.values()) >= 0.98
    assert "FakeQuantize" in bundle.graph("image").read_text("utf-8")
    with Engine.open(settings=settings) as engine:
        vectors = engine.embed(texts=["a cat", "two boats"])
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
        assert engine.info.precision == "int8"
