"""The zip archive that torch writes: which entry lies where in the file."""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from pathlib import Path

from multimodal_embedding_serving.errors import CheckpointError

MAX_PICKLE = 16 << 20
"""Bytes of data.pkl: an honest one takes about 200 a tensor."""

_LOCAL = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 1
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    RuntimeError,  # encrypted, or a feature that zipfile lacks
    ValueError,
    OverflowError,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
)


class Archive:
    """The entries of a torch archive and where their bytes lie in the mapped file."""

    def __init__(self, path: Path, buffer: mmap.mmap) -> None:
        self.file = path.name
        self._path = path
        self._buffer = buffer
        if buffer[:4] != b"PK\x03\x04":
            raise CheckpointError(
                f"{self.file}: not a zip archive; "
                "save files of torch before 1.6 again with a newer torch"
            )
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except _ZIP_ERRORS:
            raise CheckpointError(f"{self.file}: a truncated or corrupt zip archive") from None
        self._entries = {entry.filename: entry for entry in entries}
        if len(self._entries) != len(entries):
            raise CheckpointError(f"{self.file}: a zip archive with two entries of one name")
        folders = [name.removesuffix("/data.pkl") for name in self._entries if _is_pickle(name)]
        if len(folders) != 1:
            raise CheckpointError(f"{self.file}: a zip archive without torch's data.pkl")
        self._folder = folders[0]
        if self._read("byteorder", 16) not in (None, b"little"):
            raise CheckpointError(f"{self.file}: not little endian")

    def pickle(self) -> bytes:
        return self._read("data.pkl", MAX_PICKLE) or b""

    def _read(self, name: str, limit: int) -> bytes | None:
        """A small entry, unpacked; None when it is not there."""
        entry = self._entries.get(f"{self._folder}/{name}")
        if entry is None:
            return None
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CheckpointError(f"{self.file}: {name} is packed in a way that torch never uses")
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(entry) as file:
                content = file.read(limit + 1)
        except _ZIP_ERRORS:
            raise CheckpointError(f"{self.file}: {name} is truncated or corrupt") from None
        if len(content) > limit:
            raise CheckpointError(f"{self.file}: {name} is larger than {limit} bytes")
        return content

    def find_data(self, key: str, where: str) -> tuple[int, int]:
        """First byte and size of the storage `key`. `where` starts the error: file and tensor."""
        name = f"{self._folder}/data/{key}"
        entry = self._entries.get(name)
        if entry is None:
            raise CheckpointError(f"{where} has no storage in the archive")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED:
            raise CheckpointError(f"{where} is compressed or encrypted; torch stores tensors plain")
        at = entry.header_offset
        if not 0 <= at <= len(self._buffer) - _LOCAL.size:
            raise CheckpointError(f"{where} lies outside the file: truncated or corrupt")
        header = _LOCAL.unpack_from(self._buffer, at)
        signature, method, name_size, extra_size = header[0], header[3], header[9], header[10]
        at += _LOCAL.size
        start = at + name_size + extra_size
        same = self._buffer[at : at + name_size] == name.encode("utf-8", "replace")
        if signature != b"PK\x03\x04" or method != zipfile.ZIP_STORED or not same:
            raise CheckpointError(f"{where} has a corrupt entry in the archive")
        if start + entry.file_size > len(self._buffer):
            raise CheckpointError(f"{where} lies outside the file: truncated or corrupt")
        return start, entry.file_size


def _is_pickle(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")
