"""TIFFs as they define themselves, where Pillow's reader passes the numbers on as they are.

A gray TIFF says how many bits its numbers have, whether they are signed or floating-point, and
whether zero is white (photometric interpretation 0, common in scans and X-rays). Pillow inverts
WhiteIsZero only up to 8 bits, reads signed 8 and unsigned 32 bits with the wrong sign, leaves 12
bits at the low end of 16, swaps the bytes of compressed big-endian 32-bit numbers, and has no
64-bit numbers. `Tiff` reads the numbers through Pillow and interprets them itself. Of color, only
uncompressed planes of 16 bits need help.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin

from multimodal_embedding_serving.errors import UnsupportedMedia
from multimodal_embedding_serving.media.grayscale import normalize_range

WIDTH, BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER = 256, 258, 259, 262, 266
ORIENTATION, SAMPLES, PLANES, PREDICTOR, TILE_WIDTH, SAMPLE_FORMAT = 274, 277, 284, 317, 322, 339
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The orientation of TIFF and EXIF -> what makes the image upright."""

DTYPES = {
    (8, 2): "i1", (16, 2): "i2", (32, 1): "u4", (32, 2): "i4", (64, 1): "u8", (64, 2): "i8",
    (16, 3): "f2", (32, 3): "f4", (64, 3): "f8",
}  # fmt: skip
"""(bits, sample format) -> the NumPy type of numbers that are scaled by their own range, because
nothing in the file says which of them are black and white."""
COMPLEX = (5, 6)
"""Sample formats of complex numbers."""
COLORS = {
    0: "gray", 1: "gray", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIELab",
    9: "ICCLab", 10: "ITULab", 32803: "raw sensor data (CFA)", 32844: "LogL", 32845: "LogLuv",
    34892: "raw sensor data (linear)",
}  # fmt: skip
"""Photometric interpretations, as messages name them."""
READ_AS = {(8, 2): 1, (16, 3): 1, (32, 1): 2}
"""The sample format under which Pillow reads the same bits."""
NATIVE = {
    "I;16S": "I;16NS", "I;16BS": "I;16NS", "I;32S": "I;32NS", "I;32BS": "I;32NS",
    "F;32F": "F;32NF", "F;32BF": "F;32NF",
}  # fmt: skip
"""libtiff returns numbers in the machine's byte order, whatever the file's is."""
PREDICTED = {5, 8, 32946}
"""LZW and Deflate, to which alone a predictor applies."""
BYTEWISE = PREDICTED | {1, 32773}
"""Compressions that do not depend on the type of the numbers; with uncompressed and PackBits."""
BAND = 64
"""Rows that are computed at a time, to bound the memory of intermediate results."""
INTEGERS = {3: "H", 4: "I", 16: "Q"}
"""TIFF's types SHORT, LONG and LONG8, as in `struct`."""


@dataclass(frozen=True, slots=True)
class Wide:
    """How to read 64-bit numbers, which Pillow is given as pairs of 32-bit numbers."""

    dtype: str
    width: int
    tile_width: int
    predictor: int
    """Within a row of a tile: 1 none, 2 differences of numbers, 3 differences of bytes, which are
    sorted by their significance."""
    turn: Image.Transpose | None


class Tiff(TiffImagePlugin.TiffImageFile):
    """Pillow's reader; after `load`, `to_8_bits` returns the image that the file defines."""

    wide: Wide | None = None
    white_is_zero = False
    kind = (0, 0)
    """(bits, sample format) of gray without alpha; (0, 0) where Pillow reads the file right."""

    def _setup(self) -> None:
        tags = self.tag_v2
        asked = _unsupported(tags)
        if tags.get(PHOTOMETRIC, 0) in (0, 1):
            self._adapt(tags)
        elif _has_deep_planes(tags):
            # Pillow would take each byte for a sample, but it leaves compressed files to libtiff,
            # which reads the true compression from the file.
            tags[COMPRESSION] = min(PREDICTED)
        try:
            super()._setup()
        except SyntaxError as error:
            if "unknown pixel mode" in str(error):
                raise UnsupportedMedia(asked) from None
            raise
        if self.use_load_libtiff:
            ((codec, extents, offset, args),) = self.tile
            if isinstance(args, tuple):
                args = (NATIVE.get(args[0], args[0]), *args[1:])
                self.tile = [ImageFile._Tile(codec, extents, offset, args)]

    def _adapt(self, tags: Any) -> None:
        """Change the tags of a gray image to those under which Pillow reads the same numbers."""
        bits = tags.get(BITS, (1,))
        sample_format = tags.get(SAMPLE_FORMAT, (1,))[0]
        if sample_format == 4:  # undefined: read as unsigned, as libtiff does
            tags[SAMPLE_FORMAT] = sample_format = 1
        if len(bits) == 1 and bits[0] <= 8 and sample_format == 1:
            return
        self.white_is_zero = tags.get(PHOTOMETRIC, 0) == 0
        tags[PHOTOMETRIC] = 1
        if len(bits) == 1:
            self.kind = (bits[0], sample_format)
            tags[SAMPLE_FORMAT] = READ_AS.get(self.kind, sample_format)
            if tags.get(COMPRESSION, 1) != 1:
                tags[FILL_ORDER] = 1  # libtiff itself reverses the bits

    @property
    def true_size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        width, height = self.size
        return (self.wide.width, height) if self.wide else (width, height)

    def to_8_bits(self) -> Image.Image:
        """The loaded image in an 8-bit mode: gray as `L`, color as Pillow has it."""
        image: Image.Image = self
        if self.wide:
            image = Image.fromarray(normalize_range(_join_halves(np.asarray(self), self.wide)))
            image = image if self.wide.turn is None else image.transpose(self.wide.turn)
        elif self.kind in DTYPES:
            numbers = np.asarray(self)
            if self.kind in READ_AS:
                numbers = numbers.astype(numbers.dtype.newbyteorder("="), copy=False)
                numbers = numbers.view(DTYPES[self.kind])
            image = Image.fromarray(normalize_range(numbers))
        elif self.kind[0] in (12, 16):
            image = Image.fromarray((np.asarray(self) >> (self.kind[0] - 8)).astype(np.uint8))
        return _invert(image) if self.white_is_zero else image


def open_tiff(data: bytes) -> Tiff:
    """Read the header. Raises UnsupportedMedia, and what Pillow raises for damaged files."""
    tags = Tags.of(data)
    if tags.value(BITS, 1) != 64 or tags.value(SAMPLES, 1) != 1:
        return Tiff(io.BytesIO(data))
    if tags.value(SAMPLE_FORMAT, 1) in COMPLEX:
        raise UnsupportedMedia(
            "this kind of TIFF is not supported: 64 bits, complex; save the magnitude as 32-bit "
            "floats"
        )
    predictor, compression = tags.value(PREDICTOR, 1), tags.value(COMPRESSION, 1)
    if predictor not in (1, 2, 3) or compression not in BYTEWISE:
        raise UnsupportedMedia(
            f"this kind of TIFF is not supported: 64-bit numbers with compression {compression} "
            f"and predictor {predictor}; save it as 32-bit floats, or uncompressed"
        )
    width = tags.value(WIDTH, 0)
    wide = Wide(
        dtype=tags.order + DTYPES.get((64, tags.value(SAMPLE_FORMAT, 1)), "u8"),
        width=width,
        tile_width=max(1, tags.value(TILE_WIDTH, width)),
        predictor=predictor if compression in PREDICTED else 1,
        turn=TRANSPOSITIONS.get(tags.value(ORIENTATION, 1)),
    )
    # Whole tiles, because a predictor may need the columns beyond the image's edge.
    columns = -(-width // wide.tile_width) * wide.tile_width
    halves = {WIDTH: 2 * columns, TILE_WIDTH: 2 * wide.tile_width, BITS: 32}
    plain = {SAMPLE_FORMAT: 2, PREDICTOR: 1, ORIENTATION: 1}
    image = Tiff(io.BytesIO(tags.replace(halves | plain)))
    image.wide = wide
    return image


@dataclass(frozen=True, slots=True)
class Tags:
    """Where the tags of a file's first directory are."""

    data: bytes
    order: str
    """< or >, as in `struct`."""
    big: bool
    """BigTIFF: offsets have 64 bits."""
    entries: dict[int, int]

    @classmethod
    def of(cls, data: bytes) -> Tags:
        """Raises UnsupportedMedia for a BigTIFF that Pillow can't read, struct.error if the
        directory is cut off."""
        order = "<" if data[:2] == b"II" else ">"
        big = data[2:4] in (b"+\0", b"\0+")
        if big and order == ">":
            raise UnsupportedMedia(
                "big-endian BigTIFF is not supported; save it as a TIFF, or little-endian"
            )
        (start,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, start)
        first, size = (start + 8, 20) if big else (start + 2, 12)
        count = min(count, (len(data) - first) // size)
        places = range(first, first + count * size, size)
        entries = {struct.unpack_from(order + "H", data, place)[0]: place for place in places}
        return cls(data, order, big, entries)

    def value(self, tag: int, default: int) -> int:
        """A tag's number; `default` if the tag is missing or is no integer."""
        place = self.entries.get(tag)
        if place is None:
            return default
        (kind,) = struct.unpack_from(self.order + "H", self.data, place + 2)
        if kind not in INTEGERS or (kind == 16 and not self.big):
            return default
        (number,) = struct.unpack_from(
            self.order + INTEGERS[kind], self.data, place + (12 if self.big else 8)
        )
        return int(number)

    def replace(self, values: dict[int, int]) -> bytes:
        """The file with other numbers, as LONG, in those of the tags that it has."""
        data = bytearray(self.data)
        for tag, value in values.items():
            if tag in self.entries:
                layout = "HQI" if self.big else "HII"
                struct.pack_into(self.order + layout, data, self.entries[tag] + 2, 4, 1, value)
        return bytes(data)


def _join_halves(halves: NDArray[Any], wide: Wide) -> NDArray[Any]:
    """Numbers [height, width] from 32-bit numbers [height, at least 2 * width]."""
    order = wide.dtype[0]
    numbers = halves.astype(order + "i4").view(wide.dtype)
    for top in range(0, len(numbers) if wide.predictor > 1 else 0, BAND):
        for left in range(0, wide.width, wide.tile_width):
            tile = numbers[top : top + BAND, left : left + wide.tile_width]
            if wide.predictor == 2:
                integers = tile.view(order + "u8")
                integers[:] = np.cumsum(integers, axis=1, dtype=np.uint64)
            else:
                stored = np.ascontiguousarray(tile).view(np.uint8)
                planes = np.cumsum(stored, axis=1, dtype=np.uint8).reshape(len(tile), 8, -1)
                sorted_bytes = np.ascontiguousarray(planes.transpose(0, 2, 1))
                tile[:] = sorted_bytes.view(">" + wide.dtype[1:])[..., 0]
    return numbers[:, : wide.width]


def _invert(image: Image.Image) -> Image.Image:
    """The negative of gray, or of gray with alpha, which is dropped."""
    if image.mode == "La":
        image = image.convert("LA")
    gray = image.getchannel("L") if image.mode == "LA" else image
    return gray.point([255 - level for level in range(256)])


def _has_deep_planes(tags: Any) -> bool:
    uncompressed = tags.get(COMPRESSION, 1) == 1
    return bool(uncompressed and tags.get(PLANES, 1) == 2 and max(tags.get(BITS, (1,))) > 8)


def _unsupported(tags: Any) -> str:
    """What the file asks for, for the message that it is not supported."""
    bits = "+".join(str(each) for each in tags.get(BITS, (1,))[:8])
    sample_format = tags.get(SAMPLE_FORMAT, (1,))[0]
    names = {1: "unsigned", 2: "signed", 3: "floating-point"} | dict.fromkeys(COMPLEX, "complex")
    photometric = tags.get(PHOTOMETRIC, 0)
    colors = COLORS.get(photometric, f"photometric interpretation {photometric}")
    return (
        f"this kind of TIFF is not supported: {bits} bits, "
        f"{names.get(sample_format, f'sample format {sample_format}')}, {colors}; save it as PNG, "
        "or with 8 or 16 bits"
    )
