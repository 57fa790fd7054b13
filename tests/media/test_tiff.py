"""Gray TIFFs: the image that the file defines, whatever its numbers are.

The files are tifffile's (`scripts/make_image_golden.py`); what they show follows from the numbers.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from multimodal_embedding_serving.errors import TooLarge, UnsupportedMedia
from multimodal_embedding_serving.media.image import ImageLimits, decode_rgb
from tests.media_files import photo, tiff

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=10**6, formats=("TIFF",))
GOLDEN = Path(__file__).parent.parent / "golden" / "tiff.zip"


@cache
def golden(name: str) -> bytes:
    with zipfile.ZipFile(GOLDEN) as archive:
        return archive.read(name)


def expected_levels(values: NDArray[Any]) -> Any:
    """Unsigned 8 and 16 bits by their full scale, anything else by its own range."""
    if values.dtype in (np.uint8, np.uint16):
        return (values >> (8 * values.itemsize - 8)).astype(np.int16)
    values = values.astype(np.longdouble)
    return np.rint((values - values.min()) / np.ptp(values) * 255).astype(np.int16)


def levels(data: bytes) -> NDArray[np.int16]:
    pixels = np.asarray(decode_rgb(data, LIMITS)).astype(np.int16)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


@cache
def names() -> list[str]:
    with zipfile.ZipFile(GOLDEN) as archive:
        return [name for name in archive.namelist() if name.endswith(".tif")]


@pytest.mark.parametrize("name", names())
def test_gray_of_every_type_is_the_image_that_a_viewer_shows(name: str) -> None:
    dtype, _, _, photometric = name.removesuffix(".tif").split("_")
    expected = expected_levels(np.load(io.BytesIO(golden(f"{dtype}.npy"))))
    if photometric == "miniswhite":
        expected = 255 - expected
    off = np.abs(levels(golden(name)) - expected).max()
    assert off <= (0 if dtype in ("u1", "u2") else 1)


def test_the_files_cover_types_byte_orders_and_layouts() -> None:
    parts = [set(part) for part in zip(*(name.split("_") for name in names()), strict=True)]
    assert [len(part) for part in parts] == [11, 5, 2, 2]


@pytest.mark.parametrize("white", [False, True])
def test_twelve_bits_use_the_whole_scale(white: bool) -> None:
    values = np.linspace(0, 4095, 64).astype(np.uint16).reshape(4, 16)
    pairs = values.reshape(-1, 2)
    packed = np.stack(
        [pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], axis=1
    )
    data = tiff(packed.astype(np.uint8).tobytes(), 16, 4, {258: 12, 262: int(not white), 277: 1})
    expected = (values >> 4).astype(np.int16)
    assert np.array_equal(levels(data), 255 - expected if white else expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["u8", "i8"])
def test_differences_of_64_bit_numbers_are_added_up(dtype: str, order: str) -> None:
    """Predictor 2, which libtiff writes for 64 bits and tifffile does not."""
    values = np.load(io.BytesIO(golden(f"{dtype}.npy")))
    rows = values.view("u8").astype("u8")
    rows[:, 1:] -= values.view("u8")[:, :-1]
    data = zlib.compress(rows.astype(order + "u8").tobytes())
    tags = {258: 64, 259: 8, 262: 1, 317: 2, 339: 1 if dtype == "u8" else 2}
    result = levels(tiff(data, 37, 18, {**tags}, order))
    assert np.abs(result - expected_levels(values)).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_white_is_zero_up_to_eight_bits_is_inverted_once(bits: int) -> None:
    values = (np.arange(64).reshape(8, 8) % (1 << bits)).astype(np.uint8)
    binary = np.unpackbits(values[..., None], axis=2)[..., 8 - bits :]
    pixels = np.packbits(binary.reshape(8, -1), axis=1).tobytes()
    data = tiff(pixels, 8, 8, {258: bits, 262: 0, 339: 1})
    expected = 255 - values.astype(np.int16) * (255 // ((1 << bits) - 1))
    assert np.array_equal(levels(data), expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_white_is_zero_with_alpha_is_inverted_and_its_alpha_dropped(order: str) -> None:
    gray = np.asarray(photo(12, 9).convert("L"))
    pixels = np.dstack([255 - gray, np.full_like(gray, 40)]).tobytes()
    tags: dict[int, int | tuple[int, ...]] = {258: (8, 8), 262: 0, 277: 2, 338: (2,)}
    assert np.array_equal(levels(tiff(pixels, 12, 9, tags, order)), gray)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["u2", "f8"])
def test_the_orientation_holds_for_deep_gray_too(dtype: str, orientation: int) -> None:
    gray = np.asarray(photo(12, 9).convert("L"))
    if dtype == "f8":
        values, bits, sample_format = gray.astype("<f8"), 64, 3
    else:
        values, bits, sample_format = gray.astype("<u2") * 257, 16, 1
    shape: dict[int, int | tuple[int, ...]] = {258: bits, 339: sample_format, 277: 1}
    upright = levels(tiff(values.tobytes(), 12, 9, shape | {262: 1, 274: 1}))
    data = tiff(values.tobytes(), 12, 9, shape | {262: 1, 274: orientation})
    expected = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.T, 6: np.rot90(upright, -1), 7: upright[::-1, ::-1].T, 8: np.rot90(upright),
    }[orientation]  # fmt: skip
    assert np.array_equal(levels(data), expected)


UNSUPPORTED: dict[str, dict[int, int | tuple[int, ...]]] = {
    "24 bits, unsigned": {258: 24, 262: 1},
    "32 bits, complex": {258: 32, 262: 1, 339: 5},
    "64 bits, complex": {258: 64, 262: 1, 339: 6},
    r"32\+32\+32 bits, floating-point, RGB": {258: (32, 32, 32), 262: 2, 277: 3, 339: (3, 3, 3)},
    r"12\+12\+12 bits, unsigned, RGB": {258: (12, 12, 12), 262: 2, 277: 3},
    r"16\+16\+16 bits, unsigned, CIELab": {258: (16, 16, 16), 262: 8, 277: 3},
    "16 bits, unsigned, raw sensor data": {258: 16, 262: 32803},
    "photometric interpretation 777": {258: 16, 262: 777},
    "compression 34887": {258: 64, 262: 1, 339: 3, 259: 34887},
}


@pytest.mark.parametrize("message", UNSUPPORTED)
def test_a_kind_that_is_not_supported_is_named_and_not_called_damaged(message: str) -> None:
    data = tiff(bytes(8 * 8 * 12), 8, 8, UNSUPPORTED[message])
    with pytest.raises(UnsupportedMedia, match=message) as raised:
        decode_rgb(data, LIMITS)
    assert "damaged" not in raised.value.message


def test_a_big_endian_bigtiff_is_not_called_damaged() -> None:
    """Pillow takes its header for that of a small TIFF."""
    with pytest.raises(UnsupportedMedia, match="big-endian BigTIFF"):
        decode_rgb(b"MM\0+\0\x08\0\0" + bytes(64), LIMITS)


def test_the_pixel_limit_counts_64_bit_numbers_once() -> None:
    def doubles(width: int, height: int) -> bytes:
        values = np.linspace(0, 1, width * height, dtype="<f8").tobytes()
        return tiff(values, width, height, {258: 64, 262: 1, 339: 3})

    limits = ImageLimits(max_bytes=1 << 20, max_pixels=100, formats=("TIFF",))
    assert decode_rgb(doubles(10, 10), limits).size == (10, 10)
    with pytest.raises(TooLarge, match="11 x 10"):
        decode_rgb(doubles(11, 10), limits)


def test_color_tiffs_are_read_as_before() -> None:
    for mode in ("RGB", "RGBA", "CMYK", "YCbCr", "P"):
        image = photo().quantize(32) if mode == "P" else photo().convert(mode)
        out = io.BytesIO()
        image.save(out, "TIFF")
        expected = np.asarray(Image.open(io.BytesIO(out.getvalue())).convert("RGB"))
        assert np.array_equal(np.asarray(decode_rgb(out.getvalue(), LIMITS)), expected), mode
