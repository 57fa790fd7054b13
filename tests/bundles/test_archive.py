"""A model as one file: packed, carried, unpacked as it was; anything else is refused whole."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from multimodal_embedding_serving.bundles.archive import LABEL, pack, unpack
from multimodal_embedding_serving.bundles.bundle import MANIFEST, Bundle
from multimodal_embedding_serving.conversion.build import build_bundle
from multimodal_embedding_serving.conversion.store import list_bundles
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.settings import Settings
from tests.cli.running import mmes
from tests.small_model import small_conversion

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    build_bundle(small_conversion(), folder / "Tests" / "small" / "f16")
    return folder


@pytest.fixture(scope="module")
def bundle(models: Path) -> Bundle:
    return Bundle.load(models / "Tests" / "small" / "f16")


@pytest.fixture(scope="module")
def parcel(bundle: Bundle, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("parcels") / "small.mmes"
    pack(bundle, target, models)
    return target


def members(parcel: Path) -> Members:
    with tarfile.open(parcel) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def write(target: Path, contents: Members) -> Path:
    with tarfile.open(target, "w") as tar:
        for name, data in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return target


def test_a_model_arrives_as_it_left_in_the_same_place(
    bundle: Bundle, parcel: Path, tmp_path: Path
) -> None:
    unpacked = unpack(parcel, tmp_path)
    assert unpacked.path == tmp_path / "Tests" / "small" / "f16"
    assert unpacked.manifest == bundle.manifest
    vectors = []
    for each in (bundle, unpacked):
        with Engine.open(model=str(each.path), model_cache=False, models_dir=tmp_path) as engine:
            vectors.append(engine.embed(texts=["the cat"]))
    assert np.array_equal(vectors[0], vectors[1])
    assert unpack(parcel, tmp_path) == unpacked


def test_a_bundle_of_no_models_folder_becomes_a_local_one(bundle: Bundle, tmp_path: Path) -> None:
    pack(bundle, tmp_path / "one.mmes", tmp_path / "elsewhere")
    unpacked = unpack(tmp_path / "one.mmes", tmp_path / "models")
    assert unpacked.path == tmp_path / "models" / "local" / "f16" / "f16"


def test_an_altered_bundle_is_not_packed(bundle: Bundle, models: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in bundle.path.iterdir():
        data = path.read_bytes()
        (copy / path.name).write_bytes(data[:-1] + b"?" if path.suffix == ".bin" else data)
    with pytest.raises(BundleError, match="was modified"):
        pack(Bundle.load(copy), tmp_path / "x.mmes", models)
    assert not list(tmp_path.glob("*.mmes*"))


def change(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Members], Members]:
    return lambda contents: {
        key: edit(data) if key == name else data for key, data in contents.items()
    }


def placed(place: str) -> Callable[[Members], Members]:
    return change(LABEL, lambda data: json.dumps({"form": 1, "place": place}).encode())


SPOILED: dict[str, Callable[[Members], Members]] = {
    "a flipped bit": change("text.bin", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
    "a short file": change("text.bin", lambda data: data[:-1]),
    "another manifest": change(MANIFEST, lambda data: data.replace(b"text.bin", b"else.bin")),
    "no manifest": lambda contents: {
        key: data for key, data in contents.items() if key != MANIFEST
    },
    "no label": lambda contents: {key: data for key, data in contents.items() if key != LABEL},
    "one file more": lambda contents: {**contents, "more": b"x"},
    "another form": change(LABEL, lambda data: data.replace(b'"form": 1', b'"form": 2')),
    "a way out": placed("../../etc"),
    "an absolute place": placed("/etc/a/b"),
    "a hidden place": placed("a/.partial-x/b"),
    "too deep a place": placed("a/b/c/d"),
    "a manifest with a way out": change(
        MANIFEST, lambda data: data.replace(b'"text.bin"', b'"../text.bin"')
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_parcel_is_refused_and_leaves_nothing(
    name: str, parcel: Path, tmp_path: Path
) -> None:
    spoiled = write(tmp_path / "spoiled.mmes", SPOILED[name](members(parcel)))
    with pytest.raises(BundleError):
        unpack(spoiled, tmp_path / "models")
    assert list(list_bundles(tmp_path / "models")) == []
    assert not [path for path in tmp_path.rglob("*.bin") if path.is_file()]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_parcel_cut_short_is_refused(share: float, parcel: Path, tmp_path: Path) -> None:
    with tarfile.open(parcel) as tar:
        last = tar.getmembers()[-1]
    length = int(share * (last.offset_data + last.size - 1))
    (tmp_path / "cut.mmes").write_bytes(parcel.read_bytes()[:length])
    with pytest.raises(BundleError):
        unpack(tmp_path / "cut.mmes", tmp_path / "models")


def test_the_command_carries_a_model(models: Path, bundle: Bundle, tmp_path: Path) -> None:
    target, there = tmp_path / "small.mmes", tmp_path / "there"
    here = {"EMBEDDING_OV_MODELS_DIR": str(models)}
    done = mmes("bundle", "export", str(bundle.path), "--out", str(target), **here)
    assert done.returncode == 0, done.stderr
    done = mmes("bundle", "import", str(target), "--json", EMBEDDING_OV_MODELS_DIR=str(there))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["fingerprint"] == bundle.manifest.fingerprint
    Settings.from_env({}, model=str(there / "Tests" / "small" / "f16"))
    refused = mmes("bundle", "import", str(models / "none"), EMBEDDING_OV_MODELS_DIR=str(there))
    assert refused.returncode == 1
    assert refused.stderr.startswith("mmes: ")
