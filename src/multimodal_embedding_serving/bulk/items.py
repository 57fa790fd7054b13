"""What is to be embedded: texts, pictures and videos, each with a key and a mark.

The key names an item for good; the mark changes when its content does.
"""

from __future__ import annotations

import hashlib
import mimetypes
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from multimodal_embedding_serving.errors import (
    EmbeddingError,
    Forbidden,
    InvalidInput,
    NotFound,
)
from multimodal_embedding_serving.inputs.media_access import is_url

Kind = Literal["text", "image", "video"]
KINDS: tuple[Kind, ...] = ("text", "image", "video")
Source = Path | str | bytes
"""A path, a URL, or encoded bytes."""

TEXT_SUFFIXES = {".txt", ".md", ".rst"}
"""A file of one of these is one text."""
TABLE_SUFFIX = ".parquet"
LIST_SUFFIXES = {".jsonl", ".ndjson", ".csv", TABLE_SUFFIX}
"""A file of one of these is a list of items."""
_MORE_KINDS: dict[str, Kind] = {
    ".avif": "image", ".heic": "image", ".heif": "image", ".jp2": "image", ".qoi": "image",
    ".dds": "image", ".tga": "image", ".webp": "image",
    ".m2ts": "video", ".m4v": "video", ".mkv": "video", ".mts": "video", ".webm": "video",
}  # fmt: skip
"""What not every machine's table of media types knows."""
_FILE_NAME = re.compile(r"[^\s]*\.\w{1,5}")
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Item:
    """One input."""

    key: str
    """An absolute path (undecodable bytes as surrogates), a URL, or `list.csv:3`."""
    kind: Kind
    source: Source
    """Where it lies (a path or a URL), or the text or the encoded image or video itself."""
    mark: str

    @property
    def is_file(self) -> bool:
        """The key is the path of a file: where that is gone, so is the item."""
        return isinstance(self.source, Path) and self.key == absolute(self.source)


@dataclass(frozen=True, slots=True)
class Failure:
    """What was listed and is no item: a folder that can't be read, a line that says nothing."""

    key: str
    error: EmbeddingError


Mark = Callable[[Path, os.stat_result], str]
"""A file -> its mark. Raises OSError."""


def mark_by_date(path: Path, stat: os.stat_result) -> str:
    """Size and time of change: what a copy or an editor alters."""
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def mark_by_content(path: Path, stat: os.stat_result) -> str:
    """A hash of the bytes, for file systems whose times say nothing."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def absolute(path: Path) -> str:
    """From the root, without `..`; links stay links."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps `..`


def kind_of_file(name: str) -> Kind | None:
    """What a file is by its name; None for what is no text, image or video."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a million times, and no Path
    if suffix in TEXT_SUFFIXES:
        return "text"
    if suffix in _MORE_KINDS:
        return _MORE_KINDS[suffix]
    guessed = (mimetypes.guess_type("x" + suffix)[0] or "").partition("/")[0]
    return guessed if guessed in ("image", "video") else None  # type: ignore[return-value]


def file_item(path: Path, mark: Mark, *, kind: Kind | None = None) -> Item:
    """The item of a file. Raises InvalidInput for another kind of file, OSError."""
    found = kind or kind_of_file(path.name)
    if found is None:
        raise InvalidInput(f"{path.name} is neither a text, an image nor a video by its name")
    return Item(absolute(path), found, path, mark(path, path.stat()))


def url_item(url: str, kind: Kind | None = None) -> Item:
    """The item of a URL: a video by its name, or else a picture. It is never thought to change."""
    found = kind or kind_of_file(url.partition("?")[0])
    return Item(url, "video" if found == "video" else "image", url, "url")


def text_item(text: str, key: str) -> Item:
    """The item of a text that is given as it is."""
    content = text.encode("utf-8", "surrogatepass")
    return Item(key, "text", text, hashlib.blake2b(content, digest_size=16).hexdigest())


def bytes_item(data: bytes, kind: Kind, key: str) -> Item:
    """The item of an encoded image or video that a table holds."""
    return Item(key, kind, data, hashlib.blake2b(data, digest_size=16).hexdigest())


def argument_item(argument: str, mark: Mark) -> Item:
    """What a word of a command line means: a file that exists, a URL, or else a text.

    Raises InvalidInput for a file of another kind, NotFound for what looks like a file and is none.
    """
    if is_url(argument):
        return url_item(argument)
    if os.path.isfile(argument):  # noqa: PTH113 - any word may be asked
        return file_item(Path(argument), mark)
    if argument.endswith("/") or (_FILE_NAME.fullmatch(argument) and kind_of_file(argument)):
        raise NotFound(f"there is no file {argument} (a text? give it with --text)")
    return text_item(argument, argument)


def printable(key: str) -> str:
    """A key as UTF-8 can hold it: what has no UTF-8, such as a name's stray bytes, as \\uNNNN."""
    return key.encode("utf-8", "backslashreplace").decode("utf-8")


def unreadable(error: OSError) -> EmbeddingError:
    """Why a file or folder can't be read, without its path: the key says that."""
    if isinstance(error, FileNotFoundError):
        return NotFound("there is no such file any more")
    refused = Forbidden if isinstance(error, PermissionError) else InvalidInput
    return refused(f"it can't be read ({error.strerror})")
