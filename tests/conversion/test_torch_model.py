"""Served by torch without conversion: the same vectors, facts and refusals as a bundle's."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from multimodal_embedding_serving.bundles.torch_model import TorchModel
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.compat.handlers import get_model_handler
from multimodal_embedding_serving.conversion import convert, torch_model
from multimodal_embedding_serving.conversion.parity import Check
from multimodal_embedding_serving.conversion.probe_inputs import PROBE_TEXTS, probe_images
from multimodal_embedding_serving.conversion.store import list_bundles, load_bundle, load_model
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.engine.loader import ModelInfo
from multimodal_embedding_serving.errors import BundleError, CheckpointError, SettingsError
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Vectors
from tests.conversion.test_store import LAION, ROW
from tests.hub_standin import HubStandIn
from tests.parity.towers import write_checkpoint
from tests.repositories import FAMILIES, file_name, small_checkpoint, write_repository
from tests.safety.flips import flip
from tests.small_clip import repository, write_clip

QUICK = ("cn-clip-vit-b-16", "qwen3-embedding-0.6b")
"""Two towers in float32, and one whose file holds bfloat16."""
MIN_COSINES = {"f32": 0.99999, "bf16": 0.999, "f16": 0.9999}


def settings(model: str | Path, models: Path, **changes: object) -> Settings:
    chosen = {"use_openvino": False, "precision": "f32", "num_threads": 1, "model_cache": False}
    return Settings.from_env({}, model=str(model), models_dir=models, **{**chosen, **changes})


def embed(chosen: Settings) -> tuple[ModelInfo, Mapping[str, Vectors]]:
    """The open model, and its vectors of the accuracy check's probes."""
    with Engine.open(settings=chosen) as engine:
        vectors = {"text": engine.embed(texts=PROBE_TEXTS)}
        if "image" in engine.info.modalities:
            vectors["image"] = engine.embed(images=probe_images())
        return engine.info, vectors


def cosine(actual: Mapping[str, Vectors], expected: Mapping[str, Vectors]) -> float:
    assert actual.keys() == expected.keys()
    return min(float((actual[each] * expected[each]).sum(1).min()) for each in actual)


@pytest.mark.parametrize("model", FAMILIES)
def test_torch_serves_the_vectors_that_openvino_does(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The check takes a while, and has tests of its own.
    monkeypatch.setattr(convert, "check_conversion", lambda *_, **__: Check())
    monkeypatch.setattr(convert, "save_steps", lambda *_: None)
    folder = write_repository(tmp_path / model, model)
    info, actual = embed(settings(folder, tmp_path / "torch"))
    converted, expected = embed(settings(folder, tmp_path / "openvino", use_openvino=True))
    assert cosine(actual, expected) >= MIN_COSINES["f32"]
    assert (info.backend, converted.backend) == ("torch", "openvino")
    assert info.fingerprint == converted.fingerprint.replace("-f32", "-torch-f32")
    same = "id family dimension min_dimension modalities device precision inference text_length"
    for fact in f"{same} image_size logit_scale logit_bias jpeg_decode".split():
        assert getattr(info, fact) == getattr(converted, fact), fact
    assert not list(list_bundles(tmp_path / "torch"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("checkpoints") / "tiny-clip")


@pytest.mark.parametrize("precision", ["bf16", pytest.param("f16", marks=pytest.mark.slow)])
def test_sixteen_bits_are_measured_once_and_the_figure_is_shown(
    precision: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(checkpoint, tmp_path, precision=precision)
    exact, expected = embed(settings(checkpoint, tmp_path))
    info, actual = embed(chosen)
    assert exact.parity is None
    assert info.parity is not None
    assert info.inference == info.precision == precision
    assert info.fingerprint.endswith(f"-torch-{precision}")
    assert info.fingerprint.partition("-")[0] != exact.fingerprint.partition("-")[0]
    for modality, each in info.parity.items():
        assert MIN_COSINES[precision] == each["bound"] <= each["minimum"] < 1
        least = float((actual[modality] * expected[modality]).sum(1).min())
        assert least == pytest.approx(each["minimum"], abs=1e-4)
    monkeypatch.setattr(torch_model, "check_parity", None)  # it would fail if it were called
    model = load_model(chosen)
    assert model.manifest.parity == info.parity
    with pytest.raises(TypeError):  # another device is measured anew
        load_model(replace(chosen, device="cpu"))


def test_an_unreadable_accuracy_report_is_measured_again(checkpoint: Path, tmp_path: Path) -> None:
    chosen = settings(checkpoint, tmp_path, precision="bf16")
    first = load_model(chosen).manifest.parity
    (report,) = tmp_path.rglob("torch-bf16.json")
    report.write_text("[")
    assert load_model(chosen).manifest.parity == first
    assert json.loads(report.read_text())["parity"] == first


def test_a_read_only_models_folder_costs_only_the_accuracy_report(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    chosen = settings(checkpoint, tmp_path / "file", precision="bf16")
    assert load_model(chosen).manifest.parity
    assert "could not save the accuracy report" in caplog.text


def test_sixteen_bits_that_are_too_far_are_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = {"f32": 0.99999, "bf16": 0.9999999}
    monkeypatch.setattr("multimodal_embedding_serving.conversion.parity.BOUNDS", bounds)
    with pytest.raises(
        BundleError, match=r"check failed: .* inference in bf16\); use a higher EMBEDDING"
    ):
        load_model(settings(checkpoint, tmp_path, precision="bf16"))
    assert not list(tmp_path.rglob("torch-bf16.json"))


def test_auto_serves_float32_where_sixteen_bits_are_too_far(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounds = {"f32": 0.99999, "bf16": 0.9999999}
    monkeypatch.setattr("multimodal_embedding_serving.conversion.parity.BOUNDS", bounds)
    from multimodal_embedding_serving.backends import torch

    original = torch.choose_precision

    def as_on_cuda(settings: Settings) -> str:
        return "bf16" if settings.precision == "auto" else original(settings)

    monkeypatch.setattr(torch, "choose_precision", as_on_cuda)
    chosen = settings(checkpoint, tmp_path, precision="auto")
    for _ in range(2):
        with Engine.open(settings=chosen) as engine:
            assert engine.info.fingerprint.endswith("-torch-f32")
            (notice,) = engine.info.notices
        assert "to float32 < 0.9999999" in notice
        assert notice.endswith("serving with inference precision f32 instead")
        # The second start does not measure again.
        monkeypatch.setattr(torch_model, "check_parity", None)
    with pytest.raises(BundleError, match=r"use a higher EMBEDDING_PRECISION"):
        load_model(replace(chosen, precision="bf16"))


def test_a_row_is_downloaded_and_its_licence_told_first(
    hub: HubStandIn,
    access: HubAccess,
    checkpoint: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "multimodal_embedding_serving")
    repo = hub.add(LAION, repository(checkpoint))
    stages: list[str] = []
    model = load_model(settings(ROW, tmp_path), lambda stage, share: stages.append(stage), access)
    assert isinstance(model, TorchModel)
    manifest = model.manifest
    assert (manifest.model, manifest.family, manifest.licence) == (ROW, "CLIP", "mit")
    assert (manifest.source["repo"], manifest.source["revision"]) == (LAION, repo.commit)
    assert list(dict.fromkeys(stages)) == [
        "downloading the checkpoint", "verifying the download", "reading the checkpoint",
        "hashing the weights",
    ]  # fmt: skip
    assert "is licensed under mit" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    "model",
    [pytest.param(each, marks=() if each in QUICK else pytest.mark.slow) for each in FAMILIES],
)
def test_one_other_number_anywhere_is_another_fingerprint(model: str, tmp_path: Path) -> None:
    folder = write_repository(tmp_path / model, model)

    def mark() -> str:
        return load_model(settings(folder, tmp_path)).manifest.fingerprint

    first = mark()
    assert mark() == first
    arrays, _ = small_checkpoint(model)
    wide = [name for name, array in arrays.items() if array.ndim > 1 and "itm_head" not in name]
    for name in (wide[0], wide[-1]):
        changed = arrays[name].copy()
        changed.flat[-1] += 1  # of bfloat16, which is held as its bits, the last of them
        write_checkpoint(folder / file_name(model), {**arrays, name: changed})
        assert mark() != first, name


@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_every_family_passes_the_accuracy_check_when_it_is_converted(
    model: str, tmp_path: Path
) -> None:
    folder = write_repository(tmp_path / model, model)
    manifest = load_bundle(settings(folder, tmp_path, use_openvino=True, precision="auto")).manifest
    assert manifest.precision == ("int8-weights" if model.startswith("qwen") else "f16")
    assert set(manifest.parity) == set(manifest.towers)
    for each in manifest.parity.values():
        assert each["minimum"] >= each["bound"] >= 0.99


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"device": "GPU"},
            r"EMBEDDING_DEVICE='GPU' is not available to the torch .* devices: cpu",
        ),
        ({"device": "cuda:99"}, r"EMBEDDING_DEVICE='cuda:99' is not available .* devices: cpu"),
        ({"precision": "int8-weights"}, r"EMBEDDING_PRECISION='int8-weights' requires OpenVINO"),
        ({"model": "Builtin/mini"}, r"cannot serve Builtin/mini: .* set EMBEDDING_MODEL_NAME"),
    ],
    ids=lambda each: "" if isinstance(each, str) else str(each),
)
def test_what_torch_cant_serve_is_refused_before_any_download(
    changes: dict[str, str], message: str, hub: HubStandIn, access: HubAccess, tmp_path: Path
) -> None:
    chosen = settings(changes.pop("model", ROW), tmp_path, **changes)
    with pytest.raises(SettingsError, match=message):
        load_model(chosen, access=access)
    assert not hub.requests


def test_a_bundle_is_refused_with_what_to_set(checkpoint: Path, tmp_path: Path) -> None:
    bundle = load_bundle(settings(checkpoint, tmp_path, use_openvino=True, precision="f16"))
    with pytest.raises(SettingsError, match=r"converted bundle.*a checkpoint folder"):
        load_model(settings(bundle.path, tmp_path))


def test_without_torch_the_extra_is_named_and_nothing_downloaded(tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import MissingExtra
try:
    Engine.open({ROW!r}, use_openvino=False)
except MissingExtra as error:
    print(error.status, error)
"""
    environ = {"EMBEDDING_OV_MODELS_DIR": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("501 EMBEDDING_USE_OV=false (the torch backend)")
    assert "pip install 'multimodal-embedding-serving[torch]'" in done.stdout


def test_the_sdk_s_handlers_run_on_torch_and_convert_for_openvino(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = get_model_handler(str(checkpoint), "cpu", str(tmp_path), use_openvino=False)
    handler.load_model()
    with handler.engine as engine:
        assert engine.info.backend == "torch"
        actual = handler.encode_text(["a cat", "a dog"])
        assert actual.shape == (2, handler.get_embedding_dim())
        assert handler.encode_image(probe_images()).shape[0] == 4
    monkeypatch.setenv("EMBEDDING_DEVICE", "cuda")  # where OpenVINO cannot check accuracy
    image, text = handler.convert_to_openvino(str(tmp_path / "converted"))
    for graph in (image, text):
        assert graph is not None
        assert Path(graph).is_file()
    converted = settings(Path(image or "").parent, tmp_path, use_openvino=True)
    with Engine.open(settings=converted) as engine:
        expected = engine.embed(texts=["a cat", "a dog"], role="document")
    assert float((np.asarray(actual) * expected).sum(1).min()) >= 0.9999


def test_a_flipped_bit_of_a_checkpoint_that_was_served_is_rejected(tmp_path: Path) -> None:
    """Its size and times stay as they were, as on a disk that fails."""
    folder = write_clip(tmp_path / "clip")
    chosen = settings(folder, tmp_path / "models")
    info, expected = embed(chosen)
    weights = folder / "model.safetensors"
    before = flip(weights, weights.stat().st_size - 3, 6)
    with pytest.raises(CheckpointError, match="the checkpoint is damaged: the same files had"):
        embed(chosen)
    os.utime(weights)  # somebody has written it: another checkpoint
    assert embed(chosen)[0].fingerprint != info.fingerprint
    weights.write_bytes(before)
    os.utime(weights)
    again, actual = embed(chosen)
    assert again.fingerprint == info.fingerprint
    assert cosine(actual, expected) > 0.999999


def test_a_damaged_record_of_the_fingerprint_is_written_again(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    chosen = settings(folder, tmp_path / "models")
    info, _ = embed(chosen)
    (record,) = (tmp_path / "models").rglob("torch-f32-identity.json")
    text = record.read_bytes()
    flip(record, len(text) // 2, 1)
    assert embed(chosen)[0].fingerprint == info.fingerprint
    assert record.read_bytes() == text
