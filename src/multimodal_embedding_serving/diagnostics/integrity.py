"""Whether what is installed, converted and compiled is still what was written."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackagePath, distribution
from pathlib import Path

from multimodal_embedding_serving.backends.blobs import BLOBS, find_damaged
from multimodal_embedding_serving.backends.openvino import cache_folder
from multimodal_embedding_serving.backends.tuning import FILES as TUNING_FILES
from multimodal_embedding_serving.bundles.bundle import COMPILED, MANIFEST, TEMPORARY, Bundle
from multimodal_embedding_serving.bundles.checksums import open_json
from multimodal_embedding_serving.conversion.resolve import resolve_model
from multimodal_embedding_serving.conversion.serving_form import FILES as ACCURACY_FILES
from multimodal_embedding_serving.conversion.store import REINSTALL
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.settings import Settings

NAME = "multimodal-embedding-serving"


@dataclass(frozen=True, slots=True)
class Whole:
    """Something that was checked, and how much of it."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Damage(Whole):
    """Something that differs from what was written; `value` says what to do."""


def find_damage(settings: Settings) -> Iterator[Whole]:
    """Check the installed files, the configured and the converted models, what was compiled."""
    yield check_installed(distribution(NAME))
    for folder in _bundles(settings):
        yield check_bundle(folder)
    for folder in _compiled(settings):
        yield from check_compiled(folder)


def check_installed(package: Distribution) -> Whole:
    """Compare the installed files with the hashes that the installer recorded."""
    files = [each for each in package.files or () if each.hash is not None]
    ours = [each for each in files if each.parts[0] == NAME.replace("-", "_")]
    for each in ours:
        if not _is_installed(each):
            return Damage("package", f"{each} was modified since it was installed; {REINSTALL}")
    if not ours:
        return Whole("package", "runs from its sources: nothing to compare it with")
    return Whole("package", f"{len(ours)} installed files are as they were installed")


def _is_installed(path: PackagePath) -> bool:
    if path.hash is None:
        return True
    try:
        digest = hashlib.new(path.hash.mode, Path(str(path.locate())).read_bytes()).digest()
    except OSError:
        return False
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == path.hash.value


def check_bundle(folder: Path) -> Whole:
    """Compare a bundle's files with its manifest, by SHA-256 and by checksum."""
    name = "/".join(folder.parts[-3:])
    try:
        bundle = Bundle.load(folder)
        bundle.verify()
        bundle.check()
    except EmbeddingError as error:
        return Damage(name, f"{error.message}; the next start converts it again or rejects it")
    return Whole(name, f"{len(bundle.manifest.files)} files, {bundle.size / 1e6:,.1f} MB are whole")


def check_compiled(folder: Path) -> Iterator[Whole]:
    """Check the compiled blobs and the measurements of one folder."""
    count = 0
    for place in sorted(folder.glob(f"{BLOBS}*")):
        for blob in find_damaged(place):
            remedy = "the next start compiles it again"
            yield Damage("/".join(blob.parts[-4:]), f"differs from its checksum; {remedy}")
        count += 1
    for kind in (TUNING_FILES, ACCURACY_FILES):
        for path in sorted(folder.glob(f"{kind}*.json")):
            try:
                open_json(path.read_bytes())
            except (OSError, ValueError):
                remedy = "it is not used, and measured again"
                yield Damage(path.name, f"differs from its checksum; {remedy}")
            count += 1
    yield Whole("/".join(folder.parts[-3:]), f"{count} compiled graphs and measurements checked")


def _bundles(settings: Settings) -> list[Path]:
    folders = [
        path.parent
        for path in sorted(settings.models_dir.glob(f"*/*/*/{MANIFEST}"))
        if not path.parent.name.startswith(TEMPORARY)
    ]
    try:
        chosen = resolve_model(settings).bundle
    except EmbeddingError:  # the finding of the model says so
        chosen = None
    return folders if chosen is None or chosen in folders else [chosen, *folders]


def _compiled(settings: Settings) -> list[Path]:
    """Every folder of compiled graphs that belongs to these settings."""
    folders = {folder / COMPILED for folder in settings.models_dir.glob("*/*")}
    folders |= {cache_folder(bundle / MANIFEST, settings) for bundle in _bundles(settings)}
    return sorted(folder for folder in folders if folder.is_dir())
