"""JPEGs whose last bytes are missing: whole images without end marker, or truncated ones."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator

from PIL import Image

END = b"\xff\xd9"
TAILS = [bytes([byte]) * 4096 for byte in (0x55, 0xAA, 0x00, 0xF7, 0x31, 0xCE)]
"""Continuations of the compressed data that begin with different bits. With two of them, 3 of 216
truncated files decoded to the same wrong last block twice; with these, none did. They are longer
than the blocks that are decoded together (10 at most): after the end, libjpeg reads zeros."""
RESTARTS = [b"\xff" + bytes([0xD0 + number]) + TAILS[number % 6] for number in range(8)]
"""Continuations for a file that was cut before a restart marker: without the right one, libjpeg
skips them all. 0xDD defines the interval of such markers."""
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
    whatever comes next has all its data: it is decoded with several continuations and compared,
    including what the last blocks hold beyond the edges.

    Raises OSError if the image is truncated.
    """
    data = data.rstrip(b"\xff")  # half an end marker
    if not has_all_scans(data):
        raise OSError("image file is truncated")
    checksums = set()
    whole_blocks = _to_whole_blocks(data)
    for tail in TAILS + (RESTARTS if b"\xff\xdd" in data else []):
        image = open_jpeg(whole_blocks + tail + END)  # rebinding the name frees the image before
        image.load()
        checksums.add(_checksum(image))
        if len(checksums) > 1:
            raise OSError("image file is truncated")
    image = open_jpeg(data + TAILS[0] + END)
    image.load()
    return image


def _to_whole_blocks(data: bytes) -> bytes:
    """The JPEG with its sides rounded up to a multiple of 8 pixels: the same blocks, all visible.

    Of a side of 33 pixels, the last block shows one column, which many continuations share.
    """
    out = bytearray(data)
    for marker, start, _ in _segments(data):
        if marker in FRAMES:
            sides = struct.unpack_from(">HH", data, start + 1)
            whole = (min(-(-each // 8) * 8, 65528) for each in sides)
            struct.pack_into(">HH", out, start + 1, *whole)
    return bytes(out)


def has_all_scans(data: bytes) -> bool:
    """Whether the last scan has begun: each component has all coefficients in full precision."""
    expected: set[tuple[int, int]] = set()
    complete: set[tuple[int, int]] = set()
    for marker, start, end in _segments(data):
        if not start <= end <= len(data):
            return False
        segment = data[start:end]
        if marker in FRAMES:
            expected = {(segment[6 + 3 * each], k) for each in range(segment[5]) for k in range(64)}
        elif marker == SCAN:
            count = segment[0]
            first, last, precision = segment[1 + 2 * count : 4 + 2 * count]
            if precision & 15 == 0:
                names = segment[1 : 1 + 2 * count : 2]
                complete |= {(name, k) for name in names for k in range(first, last + 1)}
    return bool(expected) and expected <= complete


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Each marker segment: (marker, start, end) of its content. The file may end within the last.

    It stops at a marker without a length: the end marker, or where the file ends.
    """
    place = 2
    while (found := MARKER.search(data, place)) and found.end() + 2 <= len(data):
        start = found.end() + 2
        place = found.end() + struct.unpack_from(">H", data, found.end())[0]
        yield found[1][0], start, place


def _checksum(image: Image.Image) -> int:
    """Of the pixels, in bands of rows: a copy of the whole image is not needed."""
    checksum = 0
    for top in range(0, image.height, BAND):
        bottom = min(top + BAND, image.height)
        checksum = zlib.crc32(image.crop((0, top, image.width, bottom)).tobytes(), checksum)
    return checksum
