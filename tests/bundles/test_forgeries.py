"""Archives and manifests from a stranger: one clear line, or a model; never a file elsewhere."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from multimodal_embedding_serving.bundles.archive import LABEL, MAX_LABEL, pack, unpack
from multimodal_embedding_serving.bundles.bundle import MANIFEST, Bundle, Manifest
from multimodal_embedding_serving.bundles.checksums import FIELD, seal_json
from multimodal_embedding_serving.conversion.build import build_bundle
from multimodal_embedding_serving.conversion.store import describe
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import BundleError, EmbeddingError
from tests.cli.running import mmes
from tests.conftest import Figure
from tests.small_model import small_conversion

Members = dict[str, bytes]
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 7, 1 << 31, 1 << 63, 1 << 70, 10**400, 0.5, -1e308, float("nan"),
    float("inf"), "", "x", "../x", "/etc/passwd", "a\nb", "\x1b[2J", "é" * 3000, "text.xml",
    "{text}{text}", "{text:>999999999}", [], [[]], [1], ["text.xml"], {}, {"x": {}}, {"text": None},
    {"minimum": "1"},
]  # fmt: skip
KEYS = ["x", "../x", "", "a\nb", "text", "image", "minimum", "size", MANIFEST, "é" * 300]


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Members:
    """The members of an archive of a small model."""
    models = tmp_path_factory.mktemp("models")
    bundle = build_bundle(small_conversion(), models / "Tests" / "small" / "f16")
    target = models / "small.mmes"
    pack(bundle, target, models)
    with tarfile.open(target) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def entry_of(name: str, size: int, **fields: Any) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    for key, value in fields.items():
        setattr(entry, key, value)
    return entry


def write(target: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for entry, data in members:
            tar.addfile(entry, io.BytesIO(data))
    return target


def plain(contents: Members) -> list[tuple[tarfile.TarInfo, bytes]]:
    return [(entry_of(name, len(data)), data) for name, data in contents.items()]


def forge(contents: Members, edit: Callable[[dict[str, Any]], None]) -> Members:
    """With another manifest, whose checksum is right and whose fingerprint nobody has checked."""
    manifest = json.loads(contents[MANIFEST])
    manifest.pop(FIELD)
    edit(manifest)
    return contents | {MANIFEST: seal_json(manifest).encode()}


def mutate(value: Any, rng: random.Random, depth: int = 0) -> None:
    """Change one value or key, somewhere below."""
    while isinstance(value, dict | list) and value:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = rng.choice(keys)
        if isinstance(value[key], dict | list) and value[key] and rng.random() < 0.75:
            value = value[key]
            continue
        match rng.randrange(4):
            case 0 if isinstance(value, dict):
                value[rng.choice(KEYS)] = rng.choice(VALUES)
            case 1:
                del value[key]
            case _:
                value[key] = rng.choice(VALUES)
        return


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def rejected(message: str, left: set[Path]) -> str:
    assert message.isprintable(), repr(message)
    assert len(message) < 2500
    assert not left, "something was left"
    return "rejected"


def attempt(contents: Members, work: Path) -> str:
    """Unpack and describe a forged archive -> how it ended."""
    work.mkdir()
    source, models = write(work / "forged.mmes", plain(contents)), work / "models"
    try:
        bundle = unpack(source, models)
        json.dumps(describe(bundle))
    except EmbeddingError as error:
        return rejected(str(error), everything(work) - {source})
    assert all(path.is_relative_to(models) for path in everything(work) - {source})
    assert len(bundle.path.relative_to(models).parts) == 3
    return "imported"


def forge_many(contents: Members, count: int, tmp_path: Path, figure: Figure) -> None:
    seed = int(os.environ.get("FORGE_SEED") or random.randrange(1 << 32))
    rng = random.Random(seed)
    outcomes: Counter[str] = Counter()
    for number in range(count):
        forged = forge(contents, lambda manifest: mutate(manifest, rng))
        try:
            outcome = attempt(forged, tmp_path / str(number))
        except Exception as error:
            raise AssertionError(f"FORGE_SEED={seed}, number {number}") from error
        outcomes[outcome] += 1
        if outcome == "imported" and outcomes[outcome] <= 5:
            open_model(tmp_path / str(number) / "models")
    assert outcomes["rejected"] > count // 2
    figure(f"{count} forged manifests: {dict(outcomes)}, 0 tracebacks, 0 files elsewhere")


def open_model(models: Path) -> None:
    """Serve what was imported: a vector, or one line."""
    folder = next(models.rglob(MANIFEST)).parent
    try:
        with Engine.open(model=str(folder), models_dir=models, model_cache=False) as engine:
            engine.embed(texts=["a cat"])
    except EmbeddingError as error:
        rejected(str(error), set())


def test_a_forged_manifest_is_one_line_or_a_model(
    contents: Members, tmp_path: Path, figure: Figure
) -> None:
    forge_many(contents, 120, tmp_path, figure)


@pytest.mark.slow
def test_many_forged_manifests_are_one_line_or_a_model(
    contents: Members, tmp_path: Path, figure: Figure
) -> None:
    forge_many(contents, 2000, tmp_path, figure)


@pytest.mark.parametrize("number", range(40))
def test_a_forged_manifest_in_the_models_folder_is_one_line_or_a_model(
    number: int, contents: Members
) -> None:
    rng = random.Random(number)
    text = forge(contents, lambda manifest: mutate(manifest, rng))[MANIFEST].decode()
    try:
        manifest = Manifest.from_json(text)
    except BundleError as error:
        rejected(error.message, set())
    else:
        assert manifest.towers


def sparse(contents: Members) -> list[tuple[tarfile.TarInfo, bytes]]:
    """A weight file of a terabyte, all of it a hole."""
    size = 1 << 40

    def edit(manifest: dict[str, Any]) -> None:
        manifest["files"]["text.bin"]["size"] = size

    forged = plain(forge(contents, edit))
    headers = {"GNU.sparse.size": str(size), "GNU.sparse.map": f"0,0,{size},0"}
    return [
        (entry_of(entry.name, 0, pax_headers=headers), b"") if entry.name == "text.bin" else
        (entry, data) for entry, data in forged
    ]  # fmt: skip


def huge(contents: Members) -> list[tuple[tarfile.TarInfo, bytes]]:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["files"]["text.bin"]["size"] = 1 << 43

    return plain(forge(contents, edit))


def link(kind: bytes, target: str) -> Callable[[Members], list[tuple[tarfile.TarInfo, bytes]]]:
    def build(contents: Members) -> list[tuple[tarfile.TarInfo, bytes]]:
        return [
            (entry_of(name, 0, type=kind, linkname=target), b"") if name == "text.bin" else
            (entry_of(name, len(data)), data) for name, data in contents.items()
        ]  # fmt: skip

    return build


def labelled(label: bytes) -> Callable[[Members], list[tuple[tarfile.TarInfo, bytes]]]:
    return lambda contents: plain(contents | {LABEL: label})


def place(text: str) -> bytes:
    return json.dumps({"form": 1, "place": text}).encode()


ARCHIVES: dict[str, Callable[[Members], list[tuple[tarfile.TarInfo, bytes]]]] = {
    "a symbolic link": link(tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": link(tarfile.LNKTYPE, "/etc/passwd"),
    "a device": link(tarfile.CHRTYPE, ""),
    "a folder": link(tarfile.DIRTYPE, ""),
    "a sparse file": sparse,
    "a size beyond the archive": huge,
    "the same name twice": lambda contents: [*plain(contents), *plain(contents)[-1:]],
    "another order": lambda contents: plain(contents)[::-1],
    "an absolute name": lambda contents: plain(
        {f"/{name}" if name == "text.bin" else name: data for name, data in contents.items()}
    ),
    "a long extra header": lambda contents: [
        (entry_of(LABEL, len(contents[LABEL]), pax_headers={"comment": "x" * (1 << 20)}),
         contents[LABEL]),
        *plain(contents)[1:],
    ],
    "a long name": lambda contents: [*plain(contents), (entry_of("n" * 5000, 0), b"")],
    "a deep label": labelled(b"[" * MAX_LABEL),
    "a long label": labelled(b" " * (MAX_LABEL + 1)),
    "a label of numbers": labelled(b"7"),
    "a label without a place": labelled(b'{"form": 1}'),
    "a place of numbers": labelled(b'{"form": 1, "place": 7}'),
    "a place above": labelled(place("../x/f16")),
    "a place with a line break": labelled(place("a/b\n/f16")),
    "another precision's place": labelled(place("Tests/small/f32")),
    "the place of compiled graphs": labelled(place("Tests/small/compiled")),
    "a place too long for a name": labelled(place(f"Tests/{'x' * 300}/f16")),
    "a deep manifest": lambda contents: plain(contents | {MANIFEST: b"[" * 100_000}),
    "a manifest of one number": lambda contents: plain(contents | {MANIFEST: b"9" * 5000}),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_forged_archive_is_one_line_and_leaves_nothing(
    name: str, contents: Members, tmp_path: Path
) -> None:
    source = write(tmp_path / "forged.mmes", ARCHIVES[name](contents))
    with pytest.raises((BundleError, OSError)) as raised:
        unpack(source, tmp_path / "models")
    if isinstance(raised.value, BundleError):
        assert raised.value.message.startswith("forged.mmes: ")
        assert raised.value.message.isprintable()
    else:  # the command line reports what the system says
        assert name == "a place too long for a name"
    assert everything(tmp_path) == {source}


@pytest.mark.parametrize("name", ["a symbolic link", "a place too long for a name"])
def test_the_command_reports_a_forgery_in_one_line(
    name: str, contents: Members, tmp_path: Path
) -> None:
    source = write(tmp_path / "forged.mmes", ARCHIVES[name](contents))
    done = mmes("bundle", "import", str(source), EMBEDDING_OV_MODELS_DIR=str(tmp_path / "models"))
    assert done.returncode == 1
    assert done.stderr.startswith("mmes: ")
    assert len(done.stderr.splitlines()) == 1


def test_whatever_is_no_archive_is_one_line(tmp_path: Path) -> None:
    rng = random.Random(0)
    for number, data in enumerate([b"", b"\0" * 1024, b"\x1f\x8b", *(rng.randbytes(2048),) * 3]):
        source = tmp_path / str(number)
        source.write_bytes(data)
        with pytest.raises(BundleError, match=r"not a model archive|next member is not"):
            unpack(source, tmp_path / "models")


def test_a_model_that_was_imported_still_loads(contents: Members, tmp_path: Path) -> None:
    source = write(tmp_path / "same.mmes", plain(contents))
    assert Bundle.load(unpack(source, tmp_path / "models").path).manifest.model
