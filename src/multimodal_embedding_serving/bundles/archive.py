"""A converted model as one file, for machines without network access: pack and unpack.

The file is a tar: first `parcel.json` (the archive's format and the bundle's place in a models
folder), then the bundle's files, the manifest first. Unpacking trusts nothing: names and sizes
must match the manifest, every file is hashed, and the bundle appears as a whole or not at all.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path, PurePosixPath

from multimodal_embedding_serving.bundles.bundle import (
    LOCK,
    MANIFEST,
    Bundle,
    Manifest,
    check_format,
    locked,
    publishing,
    remove_leftovers,
)
from multimodal_embedding_serving.errors import BundleError

LABEL = "parcel.json"
FORMAT = 1
"""Of the archive itself; the bundle in it has its own format."""
MAX_LABEL, MAX_MANIFEST = 2**12, 2**24
"""Bytes."""
_PART = re.compile(r"[\w@+-][\w.@+-]*", re.ASCII)


def pack(bundle: Bundle, target: Path, models: Path) -> None:
    """Write a bundle into one file. Raises BundleError where its files were modified.

    A bundle from a models folder unpacks to the same place in another one; any other unpacks below
    `local`.
    """
    bundle.verify()
    place = PurePosixPath("local", bundle.path.resolve().name, bundle.manifest.precision)
    if bundle.path.resolve().is_relative_to(models.resolve()):
        place = PurePosixPath(bundle.path.resolve().relative_to(models.resolve()).as_posix())
    label = json.dumps({"form": FORMAT, "place": str(place)}).encode()
    temporary = target.with_name(f".{target.name}.partial")
    try:
        with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
            entry = tarfile.TarInfo(LABEL)
            entry.size = len(label)
            archive.addfile(entry, io.BytesIO(label))
            for name in (MANIFEST, *bundle.manifest.files):
                entry = tarfile.TarInfo(name)
                entry.size = (bundle.path / name).stat().st_size
                with (bundle.path / name).open("rb") as file:
                    archive.addfile(entry, file)
        temporary.rename(target)
    finally:
        temporary.unlink(missing_ok=True)


def unpack(source: Path, models: Path) -> Bundle:
    """Unpack an archive into a models folder, replacing an earlier bundle.

    Raises BundleError where the file is not a model archive, is damaged, or has extra members.
    """
    try:
        with tarfile.open(source, "r:", tarinfo=_Member) as archive:
            label = json.loads(_read(archive, LABEL, MAX_LABEL))
            place = _place(label)
            final = models / place
            text = _read(archive, MANIFEST, MAX_MANIFEST).decode("utf-8")
            manifest = Manifest.from_json(text)
            if place.name != manifest.precision:
                raise BundleError(f"the archive's label has no place for {manifest.precision}")
            if sum(facts["size"] for facts in manifest.files.values()) > source.stat().st_size:
                raise BundleError("the archive is smaller than its files")
            with locked(final.parent / LOCK):
                remove_leftovers(final.parent)
                with publishing(final) as folder:
                    for name, facts in manifest.files.items():
                        _extract(archive, name, int(facts["size"]), folder)
                    if archive.next() is not None:
                        raise BundleError(
                            f"{source.name}: the archive has files that its manifest does not list"
                        )
                    (folder / MANIFEST).write_text(text, "utf-8")
                    Bundle.load(folder).verify()
    except BundleError as error:
        raise BundleError(f"{source.name}: {error.message}") from None
    except (tarfile.TarError, ValueError, KeyError, TypeError, EOFError, RecursionError) as error:
        raise BundleError(
            f"{source.name}: not a model archive, or the file is damaged ({error})"
        ) from None
    return Bundle.load(final)


class _Member(tarfile.TarInfo):
    """A member as `pack` writes it: a plain file, whose header has at most a few extra fields.

    tarfile would read an extra header of any size into memory, and make gigabytes of zeros of a
    sparse file.
    """

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        extra = self.type == tarfile.XHDTYPE and 0 <= self.size <= MAX_LABEL
        if not extra and self.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise tarfile.ReadError(f"{self.name[:60]!r} is not a plain file")
        member: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        if member.sparse is not None or member.size < 0:
            raise tarfile.ReadError(f"{member.name[:60]!r} is a sparse file")
        return member


def _place(label: object) -> Path:
    """The path in a label: three plain names below the models folder."""
    if not isinstance(label, dict):
        raise BundleError("the archive's label is malformed")
    check_format(label.get("form"), FORMAT)
    parts = str(label["place"]).split("/")
    if len(parts) != 3 or not all(_PART.fullmatch(part) for part in parts):
        raise BundleError("the archive's label has no valid place in a models folder")
    return Path(*parts)


def _read(archive: tarfile.TarFile, name: str, limit: int) -> bytes:
    entry = _next(archive, name)
    if entry.size > limit:
        raise BundleError(f"the archive's {name} is larger than {limit} bytes")
    file = archive.extractfile(entry)
    return b"" if file is None else file.read()


def _next(archive: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    entry = archive.next()
    if entry is None or entry.name != name or not entry.isreg():
        raise BundleError(f"the archive's next member is not {name}")
    return entry


def _extract(archive: tarfile.TarFile, name: str, size: int, folder: Path) -> None:
    entry = _next(archive, name)
    target = folder / name
    if target.parent != folder or entry.size != size:
        raise BundleError(f"the size of {name} differs from the manifest")
    file = archive.extractfile(entry)
    if file is None:
        raise BundleError(f"the archive's {name} has no content")
    with target.open("wb") as out:
        while block := file.read(2**20):
            out.write(block)
