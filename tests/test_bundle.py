"""The bundle: what is written, what is trusted, what its fingerprint covers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from multimodal_embedding_serving.bundle import (
    MANIFEST,
    TEMPORARY,
    Bundle,
    Manifest,
    fingerprint,
    publishing,
)
from multimodal_embedding_serving.convert import build_bundle
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.families import TowerPlan
from tests.small_model import small_conversion


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return build_bundle(small_conversion(), tmp_path / "small")


def test_a_bundle_holds_graphs_tokenizer_and_a_manifest_that_reads_back(bundle: Bundle) -> None:
    names = sorted(path.name for path in bundle.path.iterdir())
    assert names == [
        "image.bin", "image.xml", "manifest.json", "text.bin", "text.xml", "tokenizer.json",
    ]  # fmt: skip
    manifest = bundle.manifest
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.dimension == 8
    assert set(manifest.towers) == {"image", "text"}
    assert len(manifest.fingerprint) == 32
    assert set(manifest.files) == set(names) - {MANIFEST}
    bundle.verify()


def test_nothing_but_the_bundle_and_its_lock_is_left(bundle: Bundle) -> None:
    left = {path.name for path in bundle.path.parent.iterdir()}
    assert left <= {"small", "small.lock"}


@pytest.mark.parametrize("name", ["text.bin", "image.xml", "tokenizer.json"])
def test_a_truncated_file_is_refused_by_name(bundle: Bundle, name: str) -> None:
    content = (bundle.path / name).read_bytes()
    (bundle.path / name).write_bytes(content[:-1])
    with pytest.raises(BundleError, match=f"small: {name} is truncated"):
        Bundle.open(bundle.path)


def test_a_missing_file_is_refused_by_name(bundle: Bundle) -> None:
    (bundle.path / "text.bin").unlink()
    with pytest.raises(BundleError, match=r"small: text\.bin is missing"):
        Bundle.open(bundle.path)


def test_one_flipped_bit_is_found_by_verify(bundle: Bundle) -> None:
    content = bytearray((bundle.path / "image.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.path / "image.bin").write_bytes(content)
    with pytest.raises(BundleError, match=r"image\.bin was altered"):
        Bundle.open(bundle.path).verify()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "towers": {"text": 3}}'],
)
def test_a_malformed_manifest_is_a_bundle_error(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(BundleError):
        Bundle.open(tmp_path)


def test_a_file_name_that_leaves_the_folder_is_refused(bundle: Bundle) -> None:
    data = json.loads((bundle.path / MANIFEST).read_text())
    data["files"]["../outside"] = {"sha256": "", "size": 0}
    (bundle.path.parent / "outside").write_bytes(b"")
    (bundle.path / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(BundleError, match="outside is missing"):
        Bundle.open(bundle.path)


def test_the_same_conversion_gives_the_same_fingerprint(bundle: Bundle, tmp_path: Path) -> None:
    again = build_bundle(small_conversion(), tmp_path / "again")
    assert again.manifest.fingerprint == bundle.manifest.fingerprint


def test_weights_precision_transform_and_tokenizer_each_change_the_fingerprint(
    bundle: Bundle, tmp_path: Path
) -> None:
    seen = {bundle.manifest.fingerprint}
    first = small_conversion()
    slower = dataclasses.replace(
        first.plans[0], transform={**first.plans[0].transform, "resample": "bilinear"}
    )
    assert first.tokenizer is not None
    changed = [
        small_conversion(seed=1),
        small_conversion(precision="f32"),
        dataclasses.replace(first, plans=(slower, first.plans[1])),
        dataclasses.replace(first, tokenizer=first.tokenizer.replace('"cat"', '"kat"')),
    ]
    for place, conversion in enumerate(changed):
        seen.add(build_bundle(conversion, tmp_path / str(place)).manifest.fingerprint)
    assert len(seen) == 5


def test_name_source_and_licence_do_not_change_the_fingerprint(
    bundle: Bundle, tmp_path: Path
) -> None:
    other = dataclasses.replace(small_conversion(), model="Other/name", source={}, licence="mit")
    made = build_bundle(other, tmp_path / "other")
    assert made.manifest.fingerprint == bundle.manifest.fingerprint
    manifest = made.manifest
    assert fingerprint(manifest.towers, made.tokenizer, "f16") == manifest.fingerprint


def test_a_failed_publication_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with publishing(tmp_path / "model") as folder:
            (folder / "half").write_text("written")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_swept_by_the_next(tmp_path: Path) -> None:
    stale = tmp_path / f"{TEMPORARY}model-12345"
    stale.mkdir()
    (stale / "half").write_bytes(b"x")
    with publishing(tmp_path / "model") as folder:
        (folder / "whole").write_text("written")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_refused_check_keeps_the_bundle_that_was_there(bundle: Bundle) -> None:
    def refuse(plans: Sequence[TowerPlan], made: Bundle) -> dict[str, object]:
        raise BundleError("below the bound")

    with pytest.raises(BundleError, match="below the bound"):
        build_bundle(small_conversion(seed=1), bundle.path, refuse)
    kept = Bundle.open(bundle.path)
    kept.verify()
    assert kept.manifest == bundle.manifest


def test_publishing_again_replaces_the_old_bundle_as_a_whole(bundle: Bundle) -> None:
    made = build_bundle(small_conversion(seed=1), bundle.path)
    made.verify()
    assert made.manifest.fingerprint != bundle.manifest.fingerprint
    assert {path.name for path in bundle.path.parent.iterdir()} <= {"small", "small.lock"}
