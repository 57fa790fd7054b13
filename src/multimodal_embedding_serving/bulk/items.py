"""The inputs of bulk jobs: texts, images and videos, each with a key and a mark.

The key identifies an item across runs; the mark changes when its content does.
"""

from __future__ import annotations

import glob
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
ITEM_KINDS: tuple[Kind, ...] = ("text", "image", "video")
Source = Path | str | bytes
"""A path, a URL, or encoded bytes."""

TABLE_SUFFIX = ".parquet"
LIST_SUFFIXES = {".jsonl", ".ndjson", ".csv", TABLE_SUFFIX}
"""A file of one of these is a list of items."""
KIND_BY_SUFFIX: dict[str, Kind] = {
    ".txt": "text", ".md": "text", ".rst": "text",
    ".avif": "image", ".heic": "image", ".heif": "image", ".jp2": "image", ".qoi": "image",
    ".dds": "image", ".tga": "image", ".webp": "image",
    ".m2ts": "video", ".m4v": "video", ".mkv": "video", ".mts": "video", ".webm": "video",
}  # fmt: skip
"""Text files, and media types that `mimetypes` does not know on every machine."""
_FILE_NAME = re.compile(r"[^\s]*\.\w{1,5}")
HASH_BLOCK = 1 << 20
TEXT_ADVICE = "to embed it as text, use --text"


@dataclass(frozen=True, slots=True)
class Item:
    """One input."""

    key: str
    """An absolute path (undecodable bytes as surrogates), a URL, or `list.csv:3`."""
    kind: Kind
    source: Source
    """A path, a URL, or the text, encoded image or encoded video itself."""
    mark: str

    @property
    def is_file(self) -> bool:
        """Whether the item ends with its file: the key is the file's path."""
        return isinstance(self.source, Path) and self.key == absolute(self.source)

    @property
    def listed_file(self) -> Path | None:
        """The file of an item whose key is something else, such as the line of a list."""
        return self.source if isinstance(self.source, Path) and not self.is_file else None


@dataclass(frozen=True, slots=True)
class Failure:
    """An entry that is not an item: a folder that can't be read, a line without an input."""

    key: str
    error: EmbeddingError


Mark = Callable[[Path, os.stat_result], str]
"""A file -> its mark. Raises OSError."""


def mark_by_date(path: Path, stat: os.stat_result) -> str:
    """Size and modification time."""
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def mark_by_content(path: Path, stat: os.stat_result) -> str:
    """A hash of the bytes, for file systems whose times are unreliable."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def absolute(path: Path) -> str:
    """From the root, without `..`; links stay links."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps `..`


def kind_of_file(name: str) -> Kind | None:
    """The kind of a file by its name; None if it is no text, image or video."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a million times, and no Path
    if suffix in KIND_BY_SUFFIX:
        return KIND_BY_SUFFIX[suffix]
    media = (mimetypes.guess_type("x" + suffix)[0] or "").partition("/")[0]
    return media if media in ("image", "video") else None  # type: ignore[return-value]


def file_item(path: Path, mark: Mark, *, kind: Kind | None = None) -> Item:
    """The item of a file. Raises InvalidInput for another kind of file, OSError."""
    kind = kind or kind_of_file(path.name)
    if kind is None:
        raise InvalidInput(f"{path.name}: the suffix is not that of a text, image or video")
    return Item(absolute(path), kind, path, mark(path, path.stat()))


def url_item(url: str, kind: Kind | None = None) -> Item:
    """The item of a URL: a video by its suffix, else an image. It is assumed not to change."""
    kind = kind or kind_of_file(url.partition("?")[0])
    return Item(url, "video" if kind == "video" else "image", url, "url")


def text_item(text: str, key: str) -> Item:
    """The item of a literal text."""
    content = text.encode("utf-8", "surrogatepass")
    return Item(key, "text", text, hashlib.blake2b(content, digest_size=16).hexdigest())


def bytes_item(data: bytes, kind: Kind, key: str) -> Item:
    """The item of an encoded image or video in a table."""
    return Item(key, kind, data, hashlib.blake2b(data, digest_size=16).hexdigest())


def argument_item(
    argument: str, mark: Mark, *, texts: bool = True, advice: str = TEXT_ADVICE
) -> Item:
    """What a command-line argument means: an existing file, a URL, or else a text if `texts`.

    Raises InvalidInput for a file of another kind, NotFound for what is not a file and either looks
    like one or must be one; `advice` says how to pass it as a text.
    """
    if is_url(argument):
        return url_item(argument)
    if os.path.isfile(argument):  # noqa: PTH113 - any text may be an argument
        return file_item(Path(argument), mark)
    if texts and not looks_like_files(argument):
        return text_item(argument, argument)
    raise NotFound(missing(argument, advice))


def looks_like_files(argument: str) -> bool:
    """Whether an argument can only be meant as a path or a glob: a mistyped one must not become a
    text, which would be a wrong vector without a message."""
    return (
        argument.startswith((".", "~"))
        or os.sep in argument
        or glob.has_magic(argument)
        or bool(_FILE_NAME.fullmatch(argument) and kind_of_file(argument))
    )


def missing(argument: str, advice: str = TEXT_ADVICE) -> str:
    """What to say of an argument that is neither a file nor a folder."""
    what = "no file matches" if glob.has_magic(argument) else "no such file or folder"
    return f"{what} ({advice})"


def printable(key: str) -> str:
    """A key as valid UTF-8: what UTF-8 can't encode, such as stray bytes of a name, as \\uNNNN."""
    return key.encode("utf-8", "backslashreplace").decode("utf-8")


def unreadable(error: OSError, path: Path | None = None) -> EmbeddingError:
    """Why a file or folder can't be read. `path` is left out where the key is the path."""
    place = "" if path is None else f": {absolute(path)}"
    if isinstance(error, FileNotFoundError):
        return NotFound(f"no such file{place}")
    kind = Forbidden if isinstance(error, PermissionError) else InvalidInput
    return kind(f"can't be read: {error.strerror}{place}")
