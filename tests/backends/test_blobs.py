"""A compiled blob is used only as it was written."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from multimodal_embedding_serving.backends import blobs, compile_tower
from multimodal_embedding_serving.backends.blobs import BLOBS, RECORD, checked_blobs, find_damaged
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.conversion.build import build_bundle
from multimodal_embedding_serving.settings import Settings
from tests.small_model import small_conversion

ROWS = [np.array([2, 3, 4], np.int32)]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return build_bundle(small_conversion(), tmp_path / "models" / "small" / "f16")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(precision="f32", models_dir=tmp_path / "models")


def the_blob(settings: Settings) -> Path:
    (blob,) = settings.models_dir.rglob(f"{BLOBS}*/*.blob")
    return blob


def test_a_blob_is_written_once_and_recorded(bundle: Bundle, settings: Settings) -> None:
    compile_tower(bundle, "text", settings).close()
    blob = the_blob(settings)
    inodes = blob.stat().st_ino, (blob.parent / RECORD).stat().st_ino
    assert not find_damaged(blob.parent)
    compile_tower(bundle, "text", settings).close()
    assert (blob.stat().st_ino, (blob.parent / RECORD).stat().st_ino) == inodes


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_damaged_blob_is_compiled_again(
    bundle: Bundle, settings: Settings, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    expected = compile_tower(bundle, "text", settings)(ROWS)
    blob = the_blob(settings)
    data = bytearray(blob.read_bytes())
    data[int(share * (len(data) - 1))] ^= 0x40
    blob.write_bytes(data)
    assert find_damaged(blob.parent) == [blob]
    assert np.array_equal(compile_tower(bundle, "text", settings)(ROWS), expected)
    assert f"a compiled graph is damaged ({blob.name}); compiling it again" in caplog.text
    assert not find_damaged(blob.parent)


@pytest.mark.parametrize("record", [None, b"", b"{}", b"[1]", b"\xff", b'{"blobs": {}}'])
def test_a_blob_without_a_record_is_not_used(
    bundle: Bundle, settings: Settings, record: bytes | None
) -> None:
    compile_tower(bundle, "text", settings).close()
    blob = the_blob(settings)
    place = blob.parent / RECORD
    if record is None:
        place.unlink()
    else:
        place.write_bytes(record)
    assert find_damaged(blob.parent) == [blob]
    compile_tower(bundle, "text", settings).close()
    assert not find_damaged(blob.parent)


def test_another_file_in_the_folder_is_not_trusted(tmp_path: Path) -> None:
    with checked_blobs(tmp_path) as usable:
        assert usable
        (tmp_path / "1.blob").write_bytes(b"one")
    (tmp_path / "2.blob").write_bytes(b"two")
    with checked_blobs(tmp_path):
        assert not list(tmp_path.glob("*.blob"))


def test_a_compilation_that_fails_leaves_nothing_recorded(tmp_path: Path) -> None:
    def fail() -> None:
        with checked_blobs(tmp_path):
            (tmp_path / "1.blob").write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [path.name for path in find_damaged(tmp_path)] == ["1.blob"]


def test_without_verification_a_blob_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "1.blob").write_bytes(b"unknown")
    with checked_blobs(tmp_path, check=False) as usable:
        assert usable
        assert (tmp_path / "1.blob").exists()


def test_where_blobs_cannot_be_stored_graphs_are_compiled_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with caplog.at_level(logging.WARNING), checked_blobs(tmp_path / "file" / "folder") as usable:
        assert not usable
    assert "cannot store compiled graphs" in caplog.text


def test_two_openings_of_one_graph_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "LOCK_SECONDS", 0)
    result: list[bool] = []

    def second() -> None:
        with checked_blobs(tmp_path) as usable:
            result.append(usable)

    with checked_blobs(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert result == [False]
