"""Media that clients send inline: base64 and data URIs."""

from __future__ import annotations

import binascii
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


def decode_base64(data: str) -> bytes:
    """Decode raw base64 or a `data:...;base64,` URI; white space is allowed anywhere."""
    if data[:5].lower() == "data:":
        head, comma, data = data.partition(",")
        if not comma or not head.rstrip().lower().endswith(";base64"):
            raise InvalidInput("a data URI must be base64-encoded: data:image/png;base64,...")
    if "%" in data:
        data = unquote_to_bytes(data).decode("ascii", "replace")
    try:
        return pybase64.b64decode(data, validate=True)  # 20 times faster than binascii
    except ValueError:
        pass
    try:
        return binascii.a2b_base64("".join(data.split()), strict_mode=True)
    except ValueError:
        raise InvalidInput("invalid base64") from None
