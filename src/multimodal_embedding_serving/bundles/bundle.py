"""The bundle: one converted model as a folder, and the only form in which models are served.

A bundle holds a graph for each tower (`text.xml` + `text.bin`, …), the tokenizer and
`manifest.json`. It is written under a temporary name, checked, and then renamed, so that a killed
conversion never leaves a bundle that looks valid. The manifest lists every file with its size,
SHA-256 and checksum (see checksums.py), carries a checksum of itself, and the fingerprint: a hash
over everything that decides the vectors (weights, structure, pooling, tokenizer, transforms), and
over nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from multimodal_embedding_serving.bundles.checksums import checksums, open_json, seal_json
from multimodal_embedding_serving.bundles.validation import (
    MAX_DIMENSION,
    check_fields,
    check_files,
    check_names,
    check_parity,
    check_probes,
    check_range,
    check_transform,
    shorten,
    show_value,
)
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.families import CHANGES, FAMILIES, find_family
from multimodal_embedding_serving.types import Modality

FORMAT = 3
OLDER_FORMATS = (1, 2)
"""Read as well: format 2 has no checksums but SHA-256, format 1 has no probes either."""
MANIFEST = "manifest.json"
TEMPORARY = ".partial-"
STORED = ("f32", "f16", "int8-weights", "int4-weights", "int8")
"""Values of EMBEDDING_PRECISION that set how weights are stored; otherwise the model's default."""
COMPILED = "compiled"
"""The folder of compiled blobs in a model's folder."""
LOCK = "conversion"
"""The lock of a model's folder, held by the process that converts."""


@dataclass(frozen=True, slots=True)
class TowerManifest:
    """One tower: its graph's file, its preprocessing, and the hash of what it computes."""

    graph: str
    transform: Mapping[str, Any]
    structure: str
    """SHA-256 over the graph's operations and weights (see graph/identity.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The contents of manifest.json."""

    model: str
    family: str
    precision: str
    """How the weights are stored: f32, f16, int8-weights, int4-weights, int8."""
    dimension: int
    min_dimension: int | None = None
    """The shortest vector that a request may ask for; None: only whole vectors. Not part of the
    fingerprint: a short vector is the start of the whole one."""
    towers: Mapping[Modality, TowerManifest]
    source: Mapping[str, Any] = field(default_factory=dict)
    """Repository or folder, revision, and the checkpoint's files."""
    licence: str = ""
    tokenizer: str | None = None
    """The tokenizer's file."""
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Every other file of the folder: {"sha256": …, "size": bytes, "xxh3": its checksum}."""
    fingerprint: str = ""
    parity: Mapping[str, Any] = field(default_factory=dict)
    """The accuracy report: cosines of the stored graphs to the float32 ones, on the probe set."""
    probes: Mapping[Modality, Mapping[str, Any]] = field(default_factory=dict)
    """Inputs of the accuracy check and their float32 vectors (see conversion/probes.py)."""
    fallback_from: str | None = None
    """The model's default precision, where it failed the accuracy check and this one replaced it;
    the notice has the figures."""
    extras: Mapping[str, float] = field(default_factory=dict)
    """Learned scalars of the similarity: logit_scale (what a cosine is multiplied by: the
    exponential of the checkpoint's parameter) and logit_bias."""
    notice: str | None = None
    rules: int = 0
    """How many of its family's CHANGES the conversion knew."""
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    format: int = FORMAT

    @property
    def changes(self) -> Sequence[str]:
        """What a conversion by this version does that the one of this bundle did not."""
        return CHANGES.get(self.family, ())[self.rules :]

    def to_json(self) -> str:
        return seal_json(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises BundleError where the text is not a manifest of this format, with the field."""
        try:
            data = json.loads(text)
            if not isinstance(data, dict):
                raise BundleError(f"{MANIFEST} is not an object")
            check_format(data.get("format"), FORMAT, OLDER_FORMATS)
            if data["format"] == FORMAT:
                data = open_json(text)
        except (ValueError, RecursionError) as error:
            reason = "not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
            raise BundleError(f"{MANIFEST} is damaged: {reason}") from None
        try:
            _validate(data)
        except BundleError as error:
            raise BundleError(f"{MANIFEST}: {error.message}") from None
        if "min_dimension" not in data:  # earlier versions derived it from the family
            data["min_dimension"] = _family_min_dimension(data["family"])
        towers = {name: TowerManifest(**tower) for name, tower in data["towers"].items()}
        return cls(**{**data, "towers": towers})


def _validate(data: dict[str, Any]) -> None:
    """Check every field of a manifest. Raises BundleError with the field."""
    check_fields(Manifest, data, "it")
    if data["precision"] not in STORED:
        raise BundleError(f"precision is not one of {', '.join(STORED)}")
    dimension = data["dimension"]
    check_range(dimension, 1, MAX_DIMENSION, "dimension")
    if data.get("min_dimension") is not None:
        check_range(data["min_dimension"], 1, dimension, "min_dimension")
    if not data["towers"]:
        raise BundleError("towers is empty")
    files = data.get("files", {})
    check_files(files, MANIFEST, fast=data["format"] == FORMAT)
    for modality, tower in data["towers"].items():
        where = f"towers.{modality}"
        check_transform(modality, check_fields(TowerManifest, tower, where)["transform"], where)
        graph = tower["graph"]
        for name in (graph, f"{graph.removesuffix('.xml')}.bin"):
            if not graph.endswith(".xml") or name not in files:
                raise BundleError(f"{where}.graph: {shorten(name)} is not in the list of files")
    if data.get("tokenizer") is not None and data["tokenizer"] not in files:
        raise BundleError("tokenizer is not in the list of files")
    check_names(data)
    for modality in data["towers"]:
        if modality in data.get("parity", {}):
            check_parity(modality, data["parity"][modality])
    for modality, entry in data.get("probes", {}).items():
        if modality not in data["towers"]:
            raise BundleError(f"probes.{shorten(modality)} belongs to no tower")
        check_probes(modality, entry, dimension)


def check_format(version: object, current: int, older: Sequence[int] = ()) -> None:
    """Raises BundleError where this program cannot read a format."""
    if version == current or version in older:
        return
    if isinstance(version, int) and version > current:
        raise BundleError(
            f"made by a newer version of this program (format {show_value(version)}; this one "
            f"reads up to {current}): upgrade multimodal-embedding-serving"
        )
    raise BundleError(f"the format is {show_value(version)}; this version reads {current}")


def _family_min_dimension(name: str) -> int | None:
    return find_family(name).min_dimension if name in FAMILIES else None


def hash_file(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(
    towers: Mapping[Modality, TowerManifest], tokenizer: Path | str | None, precision: str
) -> str:
    """The identity of a model's vectors, before the inference precision is added.

    `tokenizer` is tokenizer.json, as a file or as its text.
    """
    digest = hash_file(tokenizer) if isinstance(tokenizer, Path) else None
    if isinstance(tokenizer, str):
        digest = hashlib.sha256(tokenizer.encode()).hexdigest()
    covered = {
        "precision": precision,
        "towers": {
            name: {"structure": tower.structure, "transform": dict(tower.transform)}
            for name, tower in towers.items()
        },
        "tokenizer": digest,
    }
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Read the manifest and check that every file exists in full (sizes, not hashes).

        Raises BundleError with the bundle's folder and the file.
        """
        try:
            manifest = Manifest.from_json((path / MANIFEST).read_text("utf-8"))
        except OSError:
            raise BundleError(f"{path.name}: cannot read {MANIFEST}") from None
        except UnicodeDecodeError:
            raise BundleError(f"{path.name}: {MANIFEST} is damaged: not UTF-8") from None
        except BundleError as error:
            raise BundleError(f"{path.name}: {error.message}") from None
        for name, facts in manifest.files.items():
            file = path / name
            if file.parent != path or not file.is_file():
                raise BundleError(f"{path.name}: {name} is missing")
            if file.stat().st_size != facts["size"]:
                raise BundleError(
                    f"{path.name}: {name} is truncated or was modified: its size differs "
                    "from the manifest"
                )
        return cls(path, manifest)

    def check(self, names: Collection[str] | None = None) -> None:
        """Compare the checksums of the files, or of those `names`, with the manifest's.

        A bundle of an earlier format has only SHA-256. Raises BundleError with the first file that
        differs.
        """
        files = {
            name: facts
            for name, facts in self.manifest.files.items()
            if names is None or name in names
        }
        if self.manifest.format < FORMAT:
            self._verify_files(files)
            return
        try:
            actual = checksums([self.path / name for name in files])
        except OSError as error:
            raise BundleError(
                f"{self.path.name}: cannot read its files: {error.strerror}"
            ) from None
        for (name, facts), digest in zip(files.items(), actual, strict=True):
            if digest != facts["xxh3"]:
                raise BundleError(f"{self.path.name}: {name} is damaged: its checksum differs")

    def verify(self) -> None:
        """Compare every SHA-256 and the fingerprint with the manifest's.

        Raises BundleError with the first file that differs.
        """
        self._verify_files(self.manifest.files)
        manifest = self.manifest
        identity = fingerprint(manifest.towers, self.tokenizer, manifest.precision)
        if identity != manifest.fingerprint:
            raise BundleError(f"{self.path.name}: {MANIFEST} is damaged: its fingerprint differs")

    def _verify_files(self, files: Mapping[str, Mapping[str, Any]]) -> None:
        for name, facts in files.items():
            try:
                digest = hash_file(self.path / name)
            except OSError as error:
                raise BundleError(
                    f"{self.path.name}: cannot read {name}: {error.strerror}"
                ) from None
            if digest != facts["sha256"]:
                raise BundleError(f"{self.path.name}: {name} was modified: its SHA-256 differs")

    def hash_files(self) -> dict[str, dict[str, Any]]:
        """The manifest's `files` with the checksums that an earlier format lacks."""
        files = self.manifest.files
        digests = checksums([self.path / name for name in files])
        return {
            name: {**facts, "xxh3": digest}
            for (name, facts), digest in zip(files.items(), digests, strict=True)
        }

    def graph(self, modality: Modality) -> Path:
        return self.path / self.manifest.towers[modality].graph

    def weights(self, modality: Modality) -> Path:
        """The file of the graph's weights: OpenVINO names it so."""
        return self.graph(modality).with_suffix(".bin")

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(int(facts["size"]) for facts in self.manifest.files.values())

    @property
    def tokenizer(self) -> Path | None:
        name = self.manifest.tokenizer
        return None if name is None else self.path / name


def settle(folder: Path) -> dict[str, dict[str, Any]]:
    """Flush a bundle's files to disk and hash them -> the manifest's `files`.

    Both release the GIL, so that a thread can do this beside other work.
    """
    paths = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    for path in paths:
        _flush(path)
    return {
        path.name: {"sha256": hash_file(path), "size": path.stat().st_size, "xxh3": digest}
        for path, digest in zip(paths, checksums(paths), strict=True)
    }


def seal(
    folder: Path, manifest: Manifest, files: Mapping[str, Mapping[str, Any]] | None = None
) -> Bundle:
    """Add files and the fingerprint to a manifest and write it into the folder.

    `files` is the result of `settle`; None: compute it now.
    """
    files = settle(folder) if files is None else files
    tokenizer = None if manifest.tokenizer is None else folder / manifest.tokenizer
    identity = fingerprint(manifest.towers, tokenizer, manifest.precision)
    manifest = dataclasses.replace(manifest, files=files, fingerprint=identity)
    (folder / MANIFEST).write_text(manifest.to_json(), "utf-8")
    _flush(folder / MANIFEST)
    return Bundle(folder, manifest)


def rewrite_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace a published bundle's manifest at once; the caller holds `locked(folder)`."""
    temporary = folder.parent / f"{TEMPORARY}{folder.name}-manifest-{os.getpid()}"
    try:
        temporary.write_text(manifest.to_json(), "utf-8")
        _flush(temporary)
        temporary.replace(folder / MANIFEST)
        _flush(folder)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def publishing(final: Path) -> Iterator[Path]:
    """A temporary folder that becomes `final` when the block ends without an error.

    Hold `locked(final)` around this.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f"{TEMPORARY}{final.name}-{os.getpid()}"
    temporary.mkdir()
    try:
        yield temporary
        _flush(temporary)
        if final.exists():
            outdated = final.parent / f"{TEMPORARY}{final.name}-old-{os.getpid()}"
            final.rename(outdated)
            temporary.rename(final)
            shutil.rmtree(outdated, ignore_errors=True)
        else:
            temporary.rename(final)
        _flush(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(model_dir: Path) -> None:
    """Remove what killed processes left under temporary names; the caller holds `locked`.

    Whatever the precision: the killed process may have been storing another one than the next.
    """
    for leftover in model_dir.glob(f"{TEMPORARY}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def locked(final: Path) -> FileLock:
    """The lock that processes sharing a models folder take before they write `final`."""
    final.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(final.parent / f"{final.name}.lock")


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
