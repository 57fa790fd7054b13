"""Media that clients send inline: base64 and data URIs."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

import pybase64

from multimodal_embedding_serving.errors import InvalidInput, TooLarge


@dataclass(frozen=True, slots=True)
class Encoded:
    """Base64 (raw or in a data URI) that a worker thread will decode."""

    data: str

    def decode(self, max_bytes: int, kind: Literal["image", "video"]) -> bytes:
        """Decode at most `max_bytes` bytes. Raises TooLarge, InvalidInput."""
        if len(self.data) * 3 // 4 > max_bytes + 4096:  # line breaks and the URI's head take some
            raise TooLarge(
                f"the {kind} is larger than the limit of {max_bytes:,} bytes "
                f"(EMBEDDING_MAX_{kind.upper()}_MB)"
            )
        return decode_base64(self.data)


_HEAD = r"data:(image|video)/[\w!#$&^.+-]+\s*(?:;[^;,]*)*;\s*base64\s*,\s*"
_SYMBOL = "(?:[A-Za-z0-9+/_-]|%2[bBdDfF]|%5[fF])"
"""Of base64 or base64url (RFC 4648), also where it is percent-encoded."""
_DATA_URI = re.compile(
    rf"\s*{_HEAD}(?:{_SYMBOL}{{16}}|{_SYMBOL}{{0,15}}(?:=|%3[dD])*\s*$)", re.IGNORECASE
)
_FROM_URL = bytes.maketrans(b"-_", b"+/")
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]{1,31}):\S")
_PATH = re.compile(r"(?!/9j/|/0//)(?:/|\.{1,2}[/\\]|~|[A-Za-z]:[\\/]|\\\\)\S.*")
"""The two exceptions are what base64 of a JPEG and of a JPEG 2000 begins with."""
_FILE_NAME = re.compile(r"[^\n]*\.\w{2,5}")
MAX_PATH_CHARS = 4096


def media_type_of(text: str) -> Literal["image", "video"] | None:
    """Whether a string is a data URI of an image or a video by its whole form.

    That is `data:<image|video>/<subtype>[;params];base64,` and then at least 16 characters of
    base64 in a row, or nothing but base64. White space before the URI and before its data is
    ignored. Any other string is text, also one that begins with `data:`.
    """
    match = _DATA_URI.match(text)
    if match is None:
        return None
    return "image" if match[1].lower() == "image" else "video"


def is_data_uri(text: str) -> bool:
    """Whether a string in the place of media is a data URI; white space before it is ignored."""
    return text.lstrip()[:5].lower() == "data:"


def decode_base64(data: str) -> bytes:
    """Decode raw base64 or a `data:...;base64,` URI.

    White space is allowed anywhere, the alphabet of base64url too, and the padding may be missing.
    Raises InvalidInput, which says so if the string is a URL or a path instead.
    """
    if is_data_uri(data):
        head, comma, data = data.partition(",")
        if not comma or head.rpartition(";")[2].strip().lower() != "base64":
            raise InvalidInput("a data URI must be base64-encoded: data:image/png;base64,...")
    elif len(data) <= MAX_PATH_CHARS and _PATH.fullmatch(data.strip()):
        raise _not_media("a file path")
    if "%" in data:
        data = unquote_to_bytes(data).decode("ascii", "replace")
    try:
        return pybase64.b64decode(data, validate=True)  # 20 times faster than binascii
    except ValueError:
        pass
    try:
        return binascii.a2b_base64(_canonical(data), strict_mode=True)
    except ValueError:
        raise _explain(data) from None


def _canonical(data: str) -> bytes:
    """Standard base64 with its padding. Raises ValueError for other characters than ASCII."""
    symbols = b"".join(data.encode("ascii").split()).translate(_FROM_URL)
    bare = symbols.rstrip(b"=")
    if len(symbols) - len(bare) > 2:
        raise ValueError("too much padding")
    return bare + b"=" * (-len(bare) % 4)


def _explain(data: str) -> InvalidInput:
    """What a string that is not base64 most likely is."""
    scheme = _SCHEME.match(data)
    if scheme is not None:
        return _not_media(f"a URL ({scheme[1].lower()}:)")
    if len(data) <= MAX_PATH_CHARS and _FILE_NAME.fullmatch(data.strip()):
        return _not_media("a file name")
    return InvalidInput("invalid base64: send the file's bytes as base64 or as a data: URI")


def _not_media(description: str) -> InvalidInput:
    return InvalidInput(
        f"this is {description}, not base64; send base64 or a data: URI, or an http or https URL "
        "where URLs are accepted"
    )
