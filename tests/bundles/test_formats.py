"""What an earlier version wrote is used as it is, and gains only what the format adds.

`tests/golden/bundles` holds a bundle and an archive of the small model (see tests/small_model.py)
in format 1, written by the version before format 2, with INT8 weights.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from multimodal_embedding_serving.bundles.archive import pack, unpack
from multimodal_embedding_serving.bundles.bundle import FORMAT, MANIFEST, Bundle, rewrite_manifest
from multimodal_embedding_serving.bundles.checksums import seal_json
from multimodal_embedding_serving.conversion.build import draft_manifest
from multimodal_embedding_serving.conversion.probes import (
    STORED_WEIGHTS,
    read_probes,
    upgrade,
)
from multimodal_embedding_serving.conversion.store import describe
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.families import CHANGES
from tests.small_model import small_conversion

GOLDEN = Path(__file__).parent.parent / "golden" / "bundles"


@pytest.fixture
def older(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / "format1", tmp_path / "models" / "format1"))


def test_a_bundle_of_format_1_is_served_and_becomes_one_of_format_3(older: Path) -> None:
    before = json.loads((older / MANIFEST).read_text())
    assert before["format"] == 1
    with Engine.open(str(older), models_dir=older.parent, precision="f32") as engine:
        mark = engine.info.fingerprint
        assert engine.embed(texts=["the cat"]).shape == (1, 8)
    assert mark == f"{before['fingerprint']}-f32-exactjpeg"
    after = json.loads((older / MANIFEST).read_text())
    assert after.pop("format") == FORMAT == 3
    assert after.pop("checksum")
    for facts in after["files"].values():
        assert facts.pop("xxh3")
    assert set(after.pop("probes")) == {"image", "text"}
    assert {key: value for key, value in after.items() if key in before} == {
        key: value for key, value in before.items() if key != "format"
    }
    Bundle.load(older).verify()


def test_a_bundle_of_older_rules_says_what_changed(
    older: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the notices of the engine and of `mmes models --long`, and once in the log."""
    bundle = upgrade(Bundle.load(older))
    monkeypatch.setitem(CHANGES, "Tests", ("texts are shorter", "images are larger"))
    for rules, expected in ((0, 2), (1, 1), (2, 0)):
        rewrite_manifest(older, dataclasses.replace(bundle.manifest, rules=rules))
        caplog.clear()
        with (
            caplog.at_level(logging.INFO),
            Engine.open(str(older), models_dir=older.parent, precision="f32") as engine,
        ):
            notices = [each for each in engine.info.notices if "--force" in each]
        assert [each for each in describe(Bundle.load(older))["notices"] if "--force" in each] == (
            notices
        )
        assert len(notices) == min(expected, 1)
        assert caplog.text.count("--force") == len(notices)
        for notice in notices:
            assert f"`mmes convert {bundle.manifest.model} --force`" in notice
            assert ("texts are shorter" in notice) == (expected == 2)
            assert "images are larger" in notice


def test_a_conversion_knows_the_rules_of_its_version(tmp_path: Path) -> None:
    assert draft_manifest(small_conversion(), {}).rules == 0  # a family without changes
    conversion = small_conversion()
    blueprint = dataclasses.replace(conversion.blueprint, family="QwenText")
    manifest = draft_manifest(dataclasses.replace(conversion, blueprint=blueprint), {})
    assert manifest.rules == len(CHANGES["QwenText"])
    assert manifest.changes == ()


def test_probes_are_added_once(older: Path) -> None:
    bundle = upgrade(Bundle.load(older))
    inode = (older / MANIFEST).stat().st_ino
    assert upgrade(Bundle.load(older)) == bundle
    assert (older / MANIFEST).stat().st_ino == inode
    for modality in ("image", "text"):
        probes = read_probes(bundle, modality)
        assert probes is not None
        assert probes.reference == STORED_WEIGHTS
        assert len(probes.rows) == len(probes.vectors) >= 4
        assert np.allclose(np.linalg.norm(probes.vectors, axis=1), 1, atol=1e-5)


def test_probes_whose_images_are_resized_otherwise_here_are_not_used(older: Path) -> None:
    bundle = upgrade(Bundle.load(older))
    manifest = json.loads((older / MANIFEST).read_text())
    del manifest["checksum"]
    manifest["probes"]["image"]["inputs"] = "0" * 64
    (older / MANIFEST).write_text(seal_json(manifest))
    assert read_probes(Bundle.load(older), "image") is None
    assert read_probes(Bundle.load(older), "image", exact=False) is not None
    assert read_probes(bundle, "image") is not None
    with Engine.open(str(older), models_dir=older.parent, precision="f32") as engine:
        assert engine.embed(texts=["the cat"]).shape == (1, 8)


def test_a_bundle_of_format_2_gains_its_checksums(older: Path) -> None:
    """`format2.json` is the manifest that the version before format 3 wrote for this bundle."""
    (older / MANIFEST).write_bytes((GOLDEN / "format2.json").read_bytes())
    before = Bundle.load(older)
    assert before.manifest.format == 2
    after = upgrade(before).manifest
    assert after.format == FORMAT
    assert (after.probes, after.fingerprint) == (
        before.manifest.probes, before.manifest.fingerprint,
    )  # fmt: skip
    Bundle.load(older).check()
    Bundle.load(older).verify()


@pytest.mark.parametrize("name", ["text.bin", "text.xml", "tokenizer.json"])
def test_a_damaged_bundle_of_an_earlier_format_gains_no_checksums(older: Path, name: str) -> None:
    data = bytearray((older / name).read_bytes())
    data[len(data) // 2] ^= 1
    (older / name).write_bytes(data)
    for use in (upgrade, Bundle.check):
        with pytest.raises(BundleError, match=f"{name} was modified: its SHA-256 differs"):
            use(Bundle.load(older))
    assert json.loads((older / MANIFEST).read_text())["format"] == 1


def test_a_bundle_that_cannot_be_rewritten_is_served_all_the_same(
    older: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(folder: Path, manifest: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("multimodal_embedding_serving.conversion.probes.rewrite_manifest", fail)
    with caplog.at_level(logging.WARNING):
        bundle = upgrade(Bundle.load(older))
    assert "could not write probe vectors and checksums: Permission denied" in caplog.text
    assert set(bundle.manifest.probes) == {"image", "text"}
    assert json.loads((older / MANIFEST).read_text())["format"] == 1


def test_an_archive_of_format_1_is_imported_and_served(tmp_path: Path) -> None:
    bundle = unpack(GOLDEN / "format1.mmes", tmp_path)
    assert bundle.manifest.format == 1
    again = upgrade(bundle)
    pack(again, tmp_path / "again.mmes", tmp_path)
    assert unpack(tmp_path / "again.mmes", tmp_path / "other").manifest == again.manifest


def test_a_newer_format_is_refused_as_such(older: Path) -> None:
    text = (older / MANIFEST).read_text()
    (older / MANIFEST).write_text(text.replace('"format": 1', '"format": 4'))
    with pytest.raises(BundleError, match=r"made by a newer version .*format 4.* up to 3"):
        Bundle.load(older)
