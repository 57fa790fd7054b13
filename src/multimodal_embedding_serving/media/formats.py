"""Recognizes image formats by the first bytes of a file."""

from __future__ import annotations

import struct

SIGNATURES = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("TIFF", b"II+\0"),
    ("TIFF", b"MM\0+"),
    ("JPEG2000", b"\xff\x4f\xff\x51"),
    ("JPEG2000", b"\0\0\0\x0cjP  \r\n\x87\n"),
    ("ICO", b"\0\0\1\0"),
    ("DDS", b"DDS "),
    ("QOI", b"qoif"),
    ("SGI", b"\x01\xda"),
    ("BMP", b"BM"),
)
DIB_HEADER_BYTES = (12, 40, 52, 56, 64, 108, 124)
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}

CRASHING_FORMATS = frozenset({"HEIF"})
"""Formats whose decoder does not survive every damaged file: pi-heif 1.4.0 reads a null pointer if
the type of an item is not UTF-8. Their images are always decoded in processes of their own."""


def recognize(data: bytes) -> str | None:
    """The format (a key of `image.DECODERS`), or None if the signature is not known."""
    for name, signature in SIGNATURES:
        if data.startswith(signature):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        return _recognize_boxes(data)
    if data[:1] == b"P" and data[1:2] in b"123456fy" and len(data) > 2:
        return "PPM"
    if data[:1] == b"\n" and data[1:2] in b"\0\2\3\5" and data[2:3] in b"\0\1" and len(data) > 2:
        return "PCX"
    if int.from_bytes(data[:4], "little") in DIB_HEADER_BYTES and len(data) > 12:
        return "DIB"
    return "TGA" if _looks_like_tga(data) else None


def _recognize_boxes(data: bytes) -> str | None:
    """AVIF and HEIC share the box layout of MP4; for mif1, the other brands decide."""
    length = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[start : start + 4] for start in (8, *range(16, length, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    return "HEIF" if data[8:12] in HEIF_BRANDS else None


def _looks_like_tga(data: bytes) -> bool:
    """TGA has no signature: check that the fields of its header are consistent."""
    if len(data) < 18 or data[1] > 1 or data[2] not in (1, 2, 3, 9, 10, 11):
        return False
    color_mapped = data[2] in (1, 9)
    sides = struct.unpack_from("<HH", data, 12)
    return all(sides) and data[16] in (8, 16, 24, 32) and (not color_mapped or data[1] == 1)
