"""JPEGs whose last bytes are missing: whole images without end marker, or truncated ones."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable

from PIL import Image

END = b"\xff\xd9"
TAILS = [bytes([byte]) * 64 for byte in (0x55, 0xAA, 0x00, 0xF7, 0x31, 0xCE)]
"""Continuations of the compressed data that begin with different bits. With two of them, 3 of 216
truncated files decoded to the same wrong last block twice; with these, none did."""
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""A marker; within compressed data, FF00 is the byte FF and FFD0 to FFD7 are restart markers."""
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Start of frame: names the components."""
SCAN = 0xDA
BAND = 256
"""Rows."""


def load_unterminated(data: bytes, open_jpeg: Callable[[bytes], Image.Image]) -> Image.Image:
    """Decode a JPEG that Pillow finds truncated, if only its end marker is missing.

    libjpeg asks for more data before it can tell whether it needs them, and if it is given an end
    marker, it fills what is missing with gray without an error. But an image that is the same
    whatever comes next has all its data: it is decoded with several continuations and compared.

    Raises OSError if the image is truncated.
    """
    data = data.rstrip(b"\xff")  # half an end marker
    if not has_all_scans(data):
        raise OSError("image file is truncated")
    checksums = set()
    for tail in TAILS:
        image = open_jpeg(data + tail + END)  # rebinding the name frees the image before
        image.load()
        checksums.add(_checksum(image))
        if len(checksums) > 1:
            raise OSError("image file is truncated")
    return image


def has_all_scans(data: bytes) -> bool:
    """Whether the last scan has begun: each component has all coefficients in full precision."""
    expected: set[tuple[int, int]] = set()
    complete: set[tuple[int, int]] = set()
    place = 2
    while found := MARKER.search(data, place):
        marker, place = found[1][0], found.end()
        if place + 2 > len(data):
            break
        (length,) = struct.unpack_from(">H", data, place)
        segment = data[place + 2 : place + length]
        if len(segment) != length - 2:
            return False
        if marker in FRAMES:
            expected = {(segment[6 + 3 * each], k) for each in range(segment[5]) for k in range(64)}
        elif marker == SCAN:
            count = segment[0]
            first, last, precision = segment[1 + 2 * count : 4 + 2 * count]
            if precision & 15 == 0:
                names = segment[1 : 1 + 2 * count : 2]
                complete |= {(name, k) for name in names for k in range(first, last + 1)}
        place += length
    return bool(expected) and expected <= complete


def _checksum(image: Image.Image) -> int:
    """Of the pixels, in bands of rows: a copy of the whole image is not needed."""
    checksum = 0
    for top in range(0, image.height, BAND):
        bottom = min(top + BAND, image.height)
        checksum = zlib.crc32(image.crop((0, top, image.width, bottom)).tobytes(), checksum)
    return checksum
