"""The models folder: what a name means, what is made, what is served again, what is removed."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from pathlib import Path
from types import MappingProxyType

import pytest
from tokenizers import Tokenizer

from multimodal_embedding_serving.bundles.bundle import LOCK, MANIFEST, TEMPORARY, Bundle
from multimodal_embedding_serving.catalog import CLIP_TOKENIZER, resolve
from multimodal_embedding_serving.checkpoints.hub import CheckpointFiles
from multimodal_embedding_serving.checkpoints.pixel_settings import read_pixel_settings
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.conversion.blueprint import fetch, read_tokenizer
from multimodal_embedding_serving.conversion.convert import convert
from multimodal_embedding_serving.conversion.resolve import ResolvedModel, resolve_model
from multimodal_embedding_serving.conversion.store import (
    conversion_lock,
    describe,
    list_bundles,
    load_bundle,
    prune,
)
from multimodal_embedding_serving.errors import (
    BundleError,
    CheckpointError,
    RemoteFailed,
)
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import ignore_progress
from tests.fakes import PATIENCE
from tests.hub_standin import Answer, HubStandIn
from tests.small_clip import repository, write_clip, write_tokenizer

LAION = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
ROW = "CLIP/clip-vit-b-32"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("checkpoints") / "tiny-clip")


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    """A models folder with one bundle, of the checkpoint above; tests leave it as it is."""
    models = tmp_path_factory.mktemp("models")
    load_bundle(Settings(model=str(checkpoint), models_dir=models, model_cache=False))
    return models


@pytest.fixture
def own_model_folders(model_folders: Path, tmp_path: Path) -> Path:
    """A copy for a test that changes it."""
    return Path(shutil.copytree(model_folders, tmp_path / "models"))


def settings(model: str | Path, models: Path, **changes: object) -> Settings:
    return Settings.from_env({}, model=str(model), models_dir=models, model_cache=False, **changes)


# ── conversion ──


def test_a_row_is_downloaded_and_converted_once(
    hub: HubStandIn, access: HubAccess, checkpoint: Path, tmp_path: Path
) -> None:
    repo = hub.add(LAION, repository(checkpoint))
    stages: list[tuple[str, float]] = []
    chosen = settings(ROW, tmp_path / "models")
    bundle = load_bundle(chosen, lambda *step: stages.append(step), access=access)
    assert bundle.path == tmp_path / "models" / "CLIP" / "clip-vit-b-32" / "f16"
    manifest = bundle.manifest
    assert (manifest.model, manifest.family, manifest.licence) == (ROW, "CLIP", "mit")
    assert manifest.source["repo"] == LAION
    assert manifest.source["revision"] == repo.commit
    names = list(dict.fromkeys(stage for stage, _ in stages))
    assert names == [
        "downloading the checkpoint", "verifying the download", "reading the checkpoint",
        "building the graphs", "checking accuracy", "publishing the bundle",
    ]  # fmt: skip
    assert all(0 <= share <= 1 for _, share in stages)
    requests = len(hub.requests)
    again = load_bundle(chosen, access=access)
    assert again == bundle
    assert len(hub.requests) == requests
    hub.close()
    assert load_bundle(chosen, access=access) == bundle


def test_the_licence_is_told_before_the_download(
    hub: HubStandIn, access: HubAccess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "multimodal_embedding_serving")
    with pytest.raises(RemoteFailed):
        load_bundle(settings(ROW, tmp_path), access=access)
    first = next(record for record in caplog.records if "licensed" in record.getMessage())
    assert "mit" in first.getMessage()
    assert LAION in first.getMessage()
    failed = next(record for record in caplog.records if record.levelno == logging.WARNING)
    assert caplog.records.index(first) < caplog.records.index(failed)


def find(models: Path) -> Bundle:
    (bundle,) = list_bundles(models)
    return bundle


def test_a_tokenizer_is_built_where_the_source_has_only_its_parts(
    model_folders: Path, tmp_path: Path
) -> None:
    folder = write_clip(tmp_path / "parts", built_tokenizer=False)
    resolved = resolve_model(settings(folder, tmp_path))
    built = Tokenizer.from_str(read_tokenizer(fetch(resolved, ignore_progress), resolved))
    own = Tokenizer.from_file(str(find(model_folders).tokenizer))
    for text in ("a photo of a cat", "Ein roter Bus hält."):
        assert built.encode(text).ids == own.encode(text).ids


def test_the_mean_of_the_pixels_is_read_from_the_preprocessor(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "here")
    preprocessor = folder / "preprocessor_config.json"
    preprocessor.write_text('{"image_mean": [0, 0.5, 0.5], "do_resize": true}')
    resolved = resolve_model(settings(folder, tmp_path))
    pixels = read_pixel_settings(fetch(resolved, ignore_progress).documents)
    assert pixels.mean == [0, 0.5, 0.5]
    assert pixels.std is None
    preprocessor.write_text('{"image_std": [1, 2]}')
    with pytest.raises(CheckpointError, match="image_std must be a list of three numbers"):
        read_pixel_settings(fetch(resolved, ignore_progress).documents)


def test_a_precision_that_is_asked_for_has_a_bundle_of_its_own(
    checkpoint: Path, tmp_path: Path
) -> None:
    small = load_bundle(settings(checkpoint, tmp_path, precision="int8-weights"))
    assert small.path.name == small.manifest.precision == "int8-weights"
    least = min(each["minimum"] for each in small.manifest.parity.values())
    assert 0.99 <= least < 0.99999
    assert load_bundle(settings(checkpoint, tmp_path, precision="int8-weights")) == small


def test_the_next_repository_is_tried_and_all_refusals_are_told(
    hub: HubStandIn, access: HubAccess, checkpoint: Path, tmp_path: Path
) -> None:
    resolved = ResolvedModel(None, ("org/first", "org/second"), "x", tmp_path)
    hub.add("org/first", {"README.md": b"nothing yet"})
    with pytest.raises(RemoteFailed, match=r"org/first has no readable checkpoint.*; org/second"):
        fetch(resolved, ignore_progress, access)
    hub.add("org/second", repository(checkpoint))
    assert fetch(resolved, ignore_progress, access).repo == "org/second"


def test_a_row_without_a_tokenizer_takes_the_one_of_another_repository(
    hub: HubStandIn, access: HubAccess, tmp_path: Path
) -> None:
    spec = resolve("mobileclip_s1")
    bare = CheckpointFiles(
        weights=(), layout="apple", config=None, tokenizer=MappingProxyType({}),
        repo=spec.repos[0], revision="0" * 40,
    )  # fmt: skip
    write_tokenizer(tmp_path, built=True)
    hub.add(CLIP_TOKENIZER, {**repository(tmp_path), "model.safetensors": b"w" * 5000})
    resolved = ResolvedModel(spec, spec.repos, spec.id, tmp_path)
    text = read_tokenizer(bare, resolved, access=access)
    assert json.loads(text)["model"]["type"] == "BPE"
    assert not hub.seen("GET", "cdn/" + hub.repos[CLIP_TOKENIZER].digests["model.safetensors"])
    with pytest.raises(CheckpointError, match="no tokenizer next to the weights"):
        read_tokenizer(bare, ResolvedModel(None, (), "x", tmp_path), access=access)


def test_a_models_folder_that_can_not_be_written_is_named_as_the_setting(
    checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        BundleError, match=r"models folder EMBEDDING_OV_MODELS_DIR .*; set it to a writable folder"
    ):
        load_bundle(settings(checkpoint, tmp_path / "file" / "models"))


# ── what is there already ──


def test_a_damaged_bundle_is_converted_again(
    checkpoint: Path, own_model_folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings(checkpoint, own_model_folders)
    bundle = load_bundle(chosen)
    (bundle.path / "text.bin").write_bytes(b"short")
    again = load_bundle(chosen)
    again.verify()
    assert again.manifest.fingerprint == bundle.manifest.fingerprint
    assert "converting it again" in caplog.text


def test_a_bundle_of_another_format_is_converted_again(
    checkpoint: Path, own_model_folders: Path
) -> None:
    chosen = settings(checkpoint, own_model_folders)
    manifest = load_bundle(chosen).path / MANIFEST
    manifest.write_text(manifest.read_text().replace('"format": 3', '"format": 0'))
    assert load_bundle(chosen).manifest.format == 3


def test_conversion_may_be_asked_for_again(checkpoint: Path, own_model_folders: Path) -> None:
    chosen = settings(checkpoint, own_model_folders)
    first = load_bundle(chosen)
    inode = (first.path / "text.bin").stat().st_ino
    again = load_bundle(chosen, force=True)
    assert (again.path / "text.bin").stat().st_ino != inode
    assert again.manifest.fingerprint == first.manifest.fingerprint


def test_who_comes_second_waits_and_converts_nothing(checkpoint: Path, tmp_path: Path) -> None:
    chosen = settings(checkpoint, tmp_path)
    waiting = threading.Event()
    stages: list[str] = []

    def tell(stage: str, share: float) -> None:
        stages.append(stage)
        if stage.startswith("waiting"):
            waiting.set()

    second = threading.Thread(target=load_bundle, args=(chosen, tell))
    with conversion_lock(resolve_model(chosen).model_dir):
        second.start()
        assert waiting.wait(PATIENCE)
        made = convert(resolve_model(chosen), chosen)
    second.join(PATIENCE)
    assert set(stages) == {"waiting for another process that is converting this model"}
    assert load_bundle(chosen) == made


def test_what_a_killed_conversion_to_another_precision_left_is_removed(
    checkpoint: Path, own_model_folders: Path
) -> None:
    chosen = settings(checkpoint, own_model_folders)
    bundle = load_bundle(chosen)
    left = bundle.path.parent / f"{TEMPORARY}f32-123"
    left.mkdir()
    (left / "text.bin").write_bytes(b"half")
    with conversion_lock(bundle.path.parent):
        assert load_bundle(chosen) == bundle
    assert left.is_dir(), "a process that converts may be writing there"
    assert load_bundle(chosen) == bundle
    assert not left.exists()


# ── listing and pruning ──


def test_bundles_are_listed_with_accuracy_and_size(model_folders: Path) -> None:
    (bundle,) = list_bundles(model_folders)
    facts = describe(bundle)
    assert facts["model"] == "tiny-clip"
    assert set(facts["parity"]) == {"image", "text"}
    assert min(facts["parity"].values()) >= 0.9999
    assert facts["folder"] == str(bundle.path)


def test_the_embedded_model_is_described_as_any_other(tmp_path: Path) -> None:
    """Its accuracy report has more than cosines."""
    facts = describe(load_bundle(settings("mini", tmp_path)))
    assert set(facts["parity"]) == {"image", "text"}
    assert min(facts["parity"].values()) >= 0.99


@pytest.fixture
def model_dir(model_folders: Path, tmp_path: Path) -> Path:
    """A model's folder: a whole bundle, a broken one, a half-written one, and compiled graphs."""
    whole = find(model_folders).path
    place = tmp_path / "models" / "local" / "tiny"
    for name in ("f16", "int8-weights", f"{TEMPORARY}f32-123", "compiled"):
        (place / name).mkdir(parents=True)
    for path in whole.iterdir():
        (place / "f16" / path.name).write_bytes(path.read_bytes())
        (place / "int8-weights" / path.name).write_bytes(path.read_bytes()[:-1])
    (place / f"{TEMPORARY}f32-123" / "text.bin").write_bytes(b"half")
    (place / "compiled" / "1.blob").write_bytes(b"blob")
    (place / f"{LOCK}.lock").touch()
    return place


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir()}


def test_prune_removes_what_is_broken_or_half_written_and_nothing_else(model_dir: Path) -> None:
    removed = prune(model_dir.parent.parent)
    assert {path.name for path in removed} == {"int8-weights", f"{TEMPORARY}f32-123"}
    assert removed[model_dir / f"{TEMPORARY}f32-123"] == 4
    assert names(model_dir) == {"f16", "compiled"}
    assert prune(model_dir.parent.parent) == {}


def test_prune_removes_compiled_graphs_whose_bundle_is_gone(model_dir: Path) -> None:
    (model_dir / "f16" / MANIFEST).unlink()
    prune(model_dir.parent.parent)
    assert names(model_dir) == set()


def test_prune_leaves_a_shelf_alone_on_which_a_conversion_runs(model_dir: Path) -> None:
    before = names(model_dir)
    with conversion_lock(model_dir):
        assert prune(model_dir.parent.parent) == {}
    assert names(model_dir) == before
    assert (model_dir / f"{LOCK}.lock").exists()


def test_prune_leaves_alone_what_no_conversion_has_made(model_dir: Path) -> None:
    """EMBEDDING_OV_MODELS_DIR may be somebody's home."""
    models = model_dir.parent.parent
    others = [models / "photos" / "2026" / "july" / "cat.jpg", model_dir / "notes" / "read.me"]
    for path in others:
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    prune(models)
    assert all(path.read_text() == "mine" for path in others)
    assert not (models / "photos" / "2026" / f"{LOCK}.lock").exists()


def test_prune_of_no_folder_removes_nothing(tmp_path: Path) -> None:
    assert prune(tmp_path / "none") == {}


def test_a_refused_download_says_why(hub: HubStandIn, access: HubAccess, tmp_path: Path) -> None:
    hub.fail("GET", "/api/models/org/name", Answer(429))
    with pytest.raises(RemoteFailed, match="429"):
        load_bundle(settings("hf:org/name", tmp_path), access=access)
