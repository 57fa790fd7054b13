"""Compressed request bodies: `Content-Encoding: gzip`, bounded while it is decompressed."""

from __future__ import annotations

import zlib

from starlette.datastructures import Headers

from multimodal_embedding_serving.api.errors import UnsupportedEncoding
from multimodal_embedding_serving.errors import InvalidInput, TooLarge
from multimodal_embedding_serving.monitoring.request import hold

GZIP = ("gzip", "x-gzip")
"""One coding, two names (RFC 9110, 8.4.1.3)."""
CHUNK_BYTES = 8 << 20
"""Decompressed at a time; zlib copies what is left of the body after each."""
GZIP_WINDOW = 16 + zlib.MAX_WBITS
"""zlib's code for a gzip header and trailer."""


def is_compressed(headers: Headers) -> bool:
    """Whether the body is gzip data. Raises UnsupportedEncoding for anything else but plain."""
    values = ",".join(headers.getlist("content-encoding"))
    codings = [each.strip() for each in values.split(",") if each.strip()]
    codings = [each for each in codings if each.lower() != "identity"]
    if not codings:
        return False
    if len(codings) > 1 or codings[0].lower() not in GZIP:
        raise UnsupportedEncoding(
            f"Content-Encoding {', '.join(codings)[:200]!r} is not supported; "
            "send the body with gzip once, or uncompressed"
        )
    return True


def decompress(body: bytes, limit: int, too_large: TooLarge) -> bytes:
    """The content of gzip data. Blocks: for worker threads.

    Raises `too_large` above `limit` bytes, InvalidInput, and the errors of `hold`.
    """
    member = zlib.decompressobj(GZIP_WINDOW)
    chunks: list[bytes] = []
    size, rest = 0, body
    while not member.eof:
        try:
            chunk = member.decompress(rest, CHUNK_BYTES)
        except zlib.error:
            raise InvalidInput(
                "the request body is not gzip data, as its Content-Encoding header says; compress "
                "it, or leave the header out"
            ) from None
        if not chunk and not member.eof:
            raise InvalidInput("the request body is truncated: send its gzip data to the end")
        size += len(chunk)
        if size > limit:
            raise too_large
        hold(len(chunk))
        chunks.append(chunk)
        rest = member.unconsumed_tail
    if member.unused_data:  # millions of empty members would cost hours
        raise InvalidInput("the request body goes on after its gzip data; send one gzip member")
    return b"".join(chunks)
