"""What a model's name means: a row in any spelling, a repository, a folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from multimodal_embedding_serving.bundles.bundle import MANIFEST
from multimodal_embedding_serving.catalog import resolve
from multimodal_embedding_serving.conversion.resolve import resolve_model
from multimodal_embedding_serving.errors import CheckpointError, UnknownModel
from tests.conversion.test_store import LAION, ROW, settings


def test_a_row_is_meant_by_every_spelling(tmp_path: Path) -> None:
    for name in (ROW, "clip-vit-b-32", "CLIP-VIT-B-32", LAION):
        resolved = resolve_model(settings(name, tmp_path))
        assert resolved.spec is resolve(ROW)
        assert resolved.sources == (LAION,)
        assert resolved.model_dir == tmp_path / "CLIP" / "clip-vit-b-32"


def test_a_repository_has_a_shelf_of_its_own_and_a_pinned_revision_another(tmp_path: Path) -> None:
    plain = resolve_model(settings("hf:org/name", tmp_path))
    assert (plain.spec, plain.model, plain.model_dir.name) == (None, "org/name", "org--name")
    pinned = resolve_model(settings("hf:org/name@refs/pr/1", tmp_path))
    assert pinned.model == "org/name@refs/pr/1"
    assert pinned.model_dir == tmp_path / "hub" / "org--name@refs--pr--1"
    assert list(pinned.sources) == ["hf:org/name@refs/pr/1"]


def test_what_is_a_bundle_already_needs_no_conversion(tmp_path: Path) -> None:
    shipped = resolve_model(settings("mini", tmp_path)).bundle
    assert shipped is not None
    assert (shipped / MANIFEST).is_file()
    resolved = resolve_model(settings(shipped, tmp_path))
    assert (resolved.spec, resolved.model, resolved.bundle) == (None, "mini", shipped)
    assert resolve_model(settings(ROW, tmp_path)).bundle is None


def test_a_repository_of_a_row_brings_what_the_row_knows(tmp_path: Path) -> None:
    resolved = resolve_model(settings("hf:apple/MobileCLIP-S1-OpenCLIP", tmp_path))
    assert resolved.spec is resolve("mobileclip_s1")
    assert list(resolved.sources) == ["hf:apple/MobileCLIP-S1-OpenCLIP"]


@pytest.mark.parametrize("name", ["hf:..", "hf:../..", "hf:org/name@../x", "hf:", "hf:a/b/c"])
def test_a_malformed_repository_is_refused(name: str, tmp_path: Path) -> None:
    if name == "hf:../..":  # dots are letters of a repository's name; the hub will not know it
        assert resolve_model(settings(name, tmp_path)).model_dir.parent == tmp_path / "hub"
        return
    with pytest.raises(CheckpointError):
        resolve_model(settings(name, tmp_path))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("./photos", "there is no such folder"),
        ("openai/clip-vit-base-patch32", "use hf:openai/clip-vit-base-patch32"),
        ("CLIP/clip-vit-b32", "Did you mean CLIP/clip-vit-b-32?"),
        ("CLIP/clip-vit-b-32,CLIP/clip-vit-b-16", "has one model"),
        ("something", "list, or use hf:org/name or a folder"),
    ],
)
def test_an_unknown_name_is_answered_with_what_it_may_mean(
    name: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(UnknownModel, match=re.escape(words)):
        resolve_model(settings(name, tmp_path))


def test_what_means_nothing_is_told_what_would(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="there is no such folder"):
        resolve_model(settings("/no/such/folder", tmp_path))


def test_a_folder_whose_checkpoint_was_replaced_is_another_model(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"x")
    first = resolve_model(settings(folder, tmp_path)).model_dir
    (folder / "README.md").write_text("notes")
    assert resolve_model(settings(folder, tmp_path)).model_dir == first
    (folder / "model.safetensors").write_bytes(b"longer")
    assert resolve_model(settings(folder, tmp_path)).model_dir != first
