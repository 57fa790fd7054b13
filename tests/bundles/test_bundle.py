"""The bundle: what is written, what is trusted, what its fingerprint covers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.bundles.bundle import (
    MANIFEST,
    TEMPORARY,
    Bundle,
    Manifest,
    fingerprint,
    publishing,
    remove_leftovers,
)
from multimodal_embedding_serving.bundles.checksums import FIELD, seal_json
from multimodal_embedding_serving.conversion.build import (
    STORAGES,
    Conversion,
    build_bundle,
    require_space,
)
from multimodal_embedding_serving.conversion.parity import Check
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.families import TowerSpec
from tests.small_model import small_conversion, small_plans, small_weights


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
        Bundle.load(bundle.path)


def test_a_missing_file_is_refused_by_name(bundle: Bundle) -> None:
    (bundle.path / "text.bin").unlink()
    with pytest.raises(BundleError, match=r"small: text\.bin is missing"):
        Bundle.load(bundle.path)


def test_one_flipped_bit_is_found_by_verify(bundle: Bundle) -> None:
    content = bytearray((bundle.path / "image.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.path / "image.bin").write_bytes(content)
    with pytest.raises(BundleError, match=r"image\.bin was modified"):
        Bundle.load(bundle.path).verify()


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "towers": {"text": 3}}'],
)
def test_a_malformed_manifest_is_a_bundle_error(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(BundleError):
        Bundle.load(tmp_path)


@pytest.mark.parametrize(("family", "shortest"), [("QwenText", 32), ("CLIP", None), ("x", None)])
def test_the_shortest_vector_of_an_older_manifest_is_the_familys(
    bundle: Bundle, family: str, shortest: int | None
) -> None:
    """Manifests did not hold it, and bundles made then are still served."""
    data = json.loads((bundle.path / MANIFEST).read_text())
    assert data.pop("min_dimension") is None
    rewrite(bundle.path, {**data, "family": family})
    manifest = Bundle.load(bundle.path).manifest
    assert manifest.min_dimension == shortest
    assert manifest.fingerprint == bundle.manifest.fingerprint


def test_the_shortest_vector_is_written_down_and_no_part_of_the_fingerprint(
    bundle: Bundle, tmp_path: Path
) -> None:
    other = build_bundle(small_conversion(min_dimension=4), tmp_path / "short")
    assert Bundle.load(other.path).manifest.min_dimension == 4
    assert other.manifest.fingerprint == bundle.manifest.fingerprint


def test_a_file_name_that_leaves_the_folder_is_refused(bundle: Bundle) -> None:
    data = json.loads((bundle.path / MANIFEST).read_text())
    data["files"]["../outside"] = {"sha256": "", "size": 0}
    (bundle.path.parent / "outside").write_bytes(b"")
    rewrite(bundle.path, data)
    with pytest.raises(BundleError, match=r"'\.\./outside' is not the plain name of a file"):
        Bundle.load(bundle.path)


def rewrite(folder: Path, data: dict[str, Any]) -> None:
    """Write a manifest as an attacker would: with a checksum that is right."""
    data.pop(FIELD, None)
    (folder / MANIFEST).write_text(seal_json(data))


def changed(data: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """A manifest with one field changed, by its path; DELETE: without it."""
    copy: dict[str, Any] = json.loads(json.dumps(data))
    *parents, last = path.split("/")
    place: Any = copy
    for name in parents:
        place = place[name]
    if value is DELETE:
        del place[last]
    else:
        place[last] = value
    return copy


DELETE = object()
IDS: list[list[Any]] = [[-1]]
FORGERIES: list[tuple[str, object, str]] = [
    ("model", DELETE, "model is missing"),
    ("model", 3, "model has a value"),
    ("surprise", 1, "surprise is not a known field"),
    ("precision", "f64", "precision is not one of f32, f16"),
    ("dimension", 0, "dimension is 0"),
    ("dimension", True, "dimension has a value"),
    ("dimension", 10**12, "dimension is 1000000000000"),
    ("min_dimension", 9, "min_dimension is 9; allowed: 1 to 8"),
    ("towers", {}, "towers is empty"),
    ("towers", [], "towers has a value"),
    ("towers/audio", {"graph": "a.xml", "transform": {}, "structure": ""}, "not a tower"),
    ("towers/text/graph", "../text.xml", r"'?\.\./text\.xml'? is not in the list of files"),
    ("towers/text/graph", "/etc/passwd", "is not in the list of files"),
    ("towers/text/structure", None, r"towers\.text\.structure has a value"),
    ("towers/text/transform/max_length", 10**9, "max_length is 1000000000"),
    ("towers/text/transform/pad_id", -1, "pad_id is -1"),
    ("towers/text/transform/clean", "all", "clean has a value"),
    ("towers/text/transform/prompts", {"query": 1}, "prompts has a value"),
    ("towers/image/transform/size", 10**6, "size is 1000000"),
    ("towers/image/transform/resize", "stretch", "resize has a value"),
    ("towers/image/transform/resample", ["bicubic"], "resample has a value"),
    ("towers/image/transform/more", 1, "more is not a known field"),
    ("tokenizer", "../tokenizer.json", "tokenizer is not in the list of files"),
    ("files/text.bin/sha256", "0", "sha256 is malformed"),
    ("files/text.bin/xxh3", DELETE, "other fields than"),
    ("files/text.bin/size", -1, "size is -1"),
    ("files/text.bin/size", "1", "size is not a whole number"),
    ("files/text.bin", [], "files has a value"),
    ("files/manifest.json", {"sha256": "", "size": 0, "xxh3": ""}, "not the plain name"),
    ("files/.hidden", {"sha256": "", "size": 0, "xxh3": ""}, "not the plain name"),
    ("extras", {"logit_scale": "1"}, "extras has a value"),
    ("extras", {"logit_scale": 10**400}, "extras has a value"),
    ("probes", {"text": {}}, "probes.text has other fields"),
    ("probes", {"audio": {}}, "belongs to no tower"),
    (
        "probes",
        {"text": {"inputs": IDS, "vectors": "A" * 43 + "=", "reference": ""}},
        "token ids of 1 texts",
    ),
    ("probes", {"text": {"inputs": [[1]], "vectors": "AAAA", "reference": ""}}, "8 dimensions"),
    ("probes", {"text": {"inputs": [[1]], "vectors": "?", "reference": ""}}, "not base64"),
    ("probes", {"image": {"inputs": "x", "vectors": "A" * 43 + "=", "reference": ""}}, "SHA-256"),
    ("format", "3", "the format is '3'"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    FORGERIES,
    ids=[f"{path}-{n}" for n, (path, *_) in enumerate(FORGERIES)],
)
def test_every_field_of_a_manifest_is_checked(
    bundle: Bundle, path: str, value: object, message: str
) -> None:
    data = json.loads((bundle.path / MANIFEST).read_text())
    rewrite(bundle.path, changed(data, path, value))
    with pytest.raises(BundleError, match=message):
        Bundle.load(bundle.path)


def test_a_file_of_the_same_size_with_other_contents_is_found(bundle: Bundle) -> None:
    for name in bundle.manifest.files:
        path = bundle.path / name
        data = path.read_bytes()
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        Bundle.load(bundle.path)  # sizes only
        with pytest.raises(BundleError, match=f"{name} is damaged: its checksum differs"):
            bundle.check()
        bundle.check([other for other in bundle.manifest.files if other != name])
        path.write_bytes(data)
    bundle.check()


def test_a_manifest_whose_fingerprint_is_another_models_is_refused(bundle: Bundle) -> None:
    data = json.loads((bundle.path / MANIFEST).read_text())
    rewrite(bundle.path, changed(data, "towers/text/transform/max_length", 7))
    with pytest.raises(BundleError, match="its fingerprint differs"):
        Bundle.load(bundle.path).verify()


def test_the_same_conversion_gives_the_same_fingerprint(bundle: Bundle, tmp_path: Path) -> None:
    again = build_bundle(small_conversion(), tmp_path / "again")
    assert again.manifest.fingerprint == bundle.manifest.fingerprint


def flip(name: str) -> Sequence[TowerSpec]:
    """The small towers, the last bit of one weight turned."""
    weights = {key: array.copy() for key, array in small_weights().items()}
    weights[name].reshape(-1).view(np.uint32)[7] ^= 1
    return small_plans(weights=weights)


def transformed(modality: str, key: str, value: object) -> Sequence[TowerSpec]:
    return [
        dataclasses.replace(plan, transform={**plan.transform, key: value})
        if plan.modality == modality
        else plan
        for plan in small_plans()
    ]


FIRST = small_conversion()
TOKENIZER = str(FIRST.blueprint.tokenizer)
PLANS: dict[str, Sequence[TowerSpec]] = {
    **{f"one bit of {name}": flip(name) for name in small_weights()},
    "pooling": small_plans(pooling="first"),
    "the mean of the pixels": small_plans(centre=0.4),
    "size": transformed("image", "size", 17),
    "resize": transformed("image", "resize", "short_side"),
    "resample": transformed("image", "resample", "bilinear"),
    "max_length": transformed("text", "max_length", 11),
    "pad_id": transformed("text", "pad_id", 1),
    "lowercase": transformed("text", "lowercase", True),
    "prompts": transformed("text", "prompts", {"query": "q: {text}"}),
    "a tower left out": FIRST.blueprint.plans[:1],
}
MUTATIONS: dict[str, Conversion] = {
    **{name: small_conversion(plans=plans) for name, plans in PLANS.items()},
    "a word": small_conversion(tokenizer=TOKENIZER.replace('"cat"', '"kat"')),
    **{name: small_conversion(precision=name) for name in STORAGES if name != "f16"},
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_whatever_decides_the_vectors_changes_the_fingerprint(
    mutation: str, bundle: Bundle, tmp_path: Path
) -> None:
    changed = build_bundle(MUTATIONS[mutation], tmp_path / "changed")
    assert changed.manifest.fingerprint != bundle.manifest.fingerprint


def test_name_source_and_licence_do_not_change_the_fingerprint(
    bundle: Bundle, tmp_path: Path
) -> None:
    other = small_conversion(
        model="Other/name", source={}, licence="mit",
        notice="hello", extras={"logit_scale": 2.0},
    )  # fmt: skip
    renamed = build_bundle(other, tmp_path / "other")
    assert renamed.manifest.fingerprint == bundle.manifest.fingerprint
    manifest = renamed.manifest
    assert fingerprint(manifest.towers, renamed.tokenizer, "f16") == manifest.fingerprint


def test_a_failed_publication_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with publishing(tmp_path / "model") as folder:
            (folder / "half").write_text("written")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    stale = tmp_path / f"{TEMPORARY}f32-12345"
    stale.mkdir()
    (stale / "half").write_bytes(b"x")
    (tmp_path / f"{TEMPORARY}f16-manifest-12345").write_text("{")
    with publishing(tmp_path / "f16") as folder:
        (folder / "whole").write_text("written")
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["f16"]


def test_a_refused_check_keeps_the_bundle_that_was_there(bundle: Bundle) -> None:
    def refuse(plans: Sequence[TowerSpec], other: Bundle) -> Check:
        raise BundleError("below the bound")

    with pytest.raises(BundleError, match="below the bound"):
        build_bundle(small_conversion(seed=1), bundle.path, refuse)
    kept = Bundle.load(bundle.path)
    kept.verify()
    assert kept.manifest == bundle.manifest


def test_publishing_again_replaces_the_old_bundle_as_a_whole(bundle: Bundle) -> None:
    other = build_bundle(small_conversion(seed=1), bundle.path)
    other.verify()
    assert other.manifest.fingerprint != bundle.manifest.fingerprint
    assert {path.name for path in bundle.path.parent.iterdir()} <= {"small", "small.lock"}


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match=r"needs 2,251,799,813\.7 MB, but the disk of the models folder"
    ):
        require_space(1 << 50, "f16", tmp_path / "models")
    require_space(0, "f16", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []
