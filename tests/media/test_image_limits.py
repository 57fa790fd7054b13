"""Bytes that are not an image, or images that are too large, damaged or hostile."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from multimodal_embedding_serving.errors import (
    EmbeddingError,
    TooLarge,
    UnsupportedMedia,
)
from multimodal_embedding_serving.media.formats import recognize
from multimodal_embedding_serving.media.image import ImageLimits, decode_rgb
from multimodal_embedding_serving.settings import IMAGE_FORMATS
from tests.media_files import IMAGE_KINDS, photo, write_image

LIMITS = ImageLimits(max_bytes=32 << 20, max_pixels=64_000_000, formats=tuple(IMAGE_FORMATS))


NOT_IMAGES = {
    "text": b"hello, this is not an image at all, it is a sentence",
    "html": b"<!doctype html><html><body>404</body></html>" * 4,
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "eps_binary": b"\xc5\xd0\xd3\xc6" + bytes(40),
    "pdf": b"%PDF-1.7\n",
    "fits": b"SIMPLE  =                    T".ljust(2880),
    "wmf": b"\xd7\xcd\xc6\x9a\x00\x00" + bytes(40),
    "emf": b"\x01\x00\x00\x00" + bytes(36) + b" EMF",
    "grib": b"GRIB" + bytes(3) + b"\x01",
    "bufr": b"BUFR" + bytes(12),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(20),
    "psd": b"8BPS\0\1" + bytes(30),
    "icns": b"icns\0\0\0\x08",
    "zeros": bytes(64),
    "one": b"x",
    "mp4": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
}


@pytest.mark.parametrize("name", NOT_IMAGES)
def test_bytes_of_no_allowed_format_are_a_415(name: str) -> None:
    with pytest.raises(UnsupportedMedia) as raised:
        decode_rgb(NOT_IMAGES[name], LIMITS)
    assert "JPEG" in raised.value.message


def test_a_format_that_is_not_allowed_is_a_415_even_where_it_could_be_opened() -> None:
    narrow = ImageLimits(max_bytes=1 << 20, max_pixels=10**6, formats=("PNG", "JPEG"))
    assert decode_rgb(write_image("png"), narrow).mode == "RGB"
    with pytest.raises(UnsupportedMedia, match="BMP images are not allowed"):
        decode_rgb(write_image("bmp"), narrow)


def test_the_signature_decides_for_every_kind() -> None:
    for kind in IMAGE_KINDS:
        expected = {"PGM": "PPM"}.get(form := kind.split("_")[0].upper(), form)
        assert recognize(write_image(kind)) == expected


def heic_header(brand: bytes, *others: bytes) -> bytes:
    body = brand + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + bytes(64)


def test_heic_is_told_from_avif_by_its_brands() -> None:
    assert recognize(heic_header(b"heic", b"mif1")) == "HEIF"
    assert recognize(heic_header(b"mif1", b"heic")) == "HEIF"
    assert recognize(heic_header(b"mif1", b"avif")) == "AVIF"
    assert recognize(heic_header(b"isom", b"mp42")) is None


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", zlib.compress(bytes(1000)))


def hostile_headers() -> dict[str, bytes]:
    gif = bytearray(write_image("gif"))
    gif[6:10] = b"\xff\xff\xff\xff"
    bmp = bytearray(write_image("bmp"))
    bmp[18:26] = struct.pack("<ii", 100_000, 100_000)
    tiff = bytearray(write_image("tiff"))
    jpeg = bytearray(write_image("jpeg"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    webp = bytearray(write_image("webp_lossless"))
    webp[21:25] = struct.pack("<I", (16383 << 14) | 16383 | (1 << 29))
    qoi = bytearray(write_image("qoi"))
    qoi[4:12] = struct.pack(">II", 60_000, 60_000)
    ppm = b"P6 99999 99999 255\n" + bytes(100)
    png = png_header(100_000, 100_000)
    start = struct.pack("<BBBBHHII", 1, 1, 0, 0, 1, 32, len(png), 22)
    icon = b"\0\0\1\0\1\0" + start + png
    out = io.BytesIO()
    Image.new("1", (9_000, 9_000)).save(out, "TIFF", compression="group4")
    return {
        "png": png, "gif": bytes(gif), "bmp": bytes(bmp), "jpeg": bytes(jpeg), "webp": bytes(webp),
        "qoi": bytes(qoi), "ppm": ppm, "icon": icon, "tiff": out.getvalue() if tiff else b"",
    }  # fmt: skip


@pytest.mark.parametrize("name", sorted(hostile_headers()))
def test_a_header_above_the_pixel_limit_is_a_413_before_decoding(name: str) -> None:
    with pytest.raises(TooLarge, match="megapixels"):
        decode_rgb(hostile_headers()[name], LIMITS)


def test_the_pixel_limit_holds_for_images_and_arrays_too() -> None:
    tight = ImageLimits(max_bytes=1000, max_pixels=99, formats=("PNG",))
    for source in (Image.new("L", (10, 10)), np.zeros((10, 10), dtype=np.uint8)):
        with pytest.raises(TooLarge):
            decode_rgb(source, tight)


def test_pillows_global_pixel_limit_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert decode_rgb(write_image("png"), LIMITS).size == (64, 48)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(TooLarge):
        decode_rgb(png_header(100_000, 100_000), LIMITS)


def test_decoders_that_pillow_runs_in_python_have_a_lower_limit() -> None:
    data = bytearray(write_image("qoi"))
    data[4:12] = struct.pack(">II", 2100, 2100)
    with pytest.raises(TooLarge, match="QOI image"):
        decode_rgb(bytes(data), LIMITS)


def test_bytes_above_the_limit_are_a_413() -> None:
    with pytest.raises(TooLarge, match="bytes"):
        decode_rgb(
            write_image("bmp"), ImageLimits(max_bytes=100, max_pixels=10**6, formats=("BMP",))
        )


def verdict(data: bytes) -> str | int:
    """The mode of the opened image, or the status of the error; anything else gets through."""
    try:
        return decode_rgb(data, LIMITS, min_side=4).mode
    except EmbeddingError as error:
        leaks = "0x" in str(error) or "PIL" in str(error)
        return "leak" if leaks else error.status


@cache
def seed_image(kind: str) -> bytes:
    return write_image(kind, photo(24, 16))


@settings(max_examples=500, deadline=None)
@given(
    seed=st.sampled_from(IMAGE_KINDS).map(seed_image),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
    extra=st.binary(max_size=16),
)
def test_mutated_bytes_raise_nothing_but_embedding_errors(
    seed: bytes, edits: list[tuple[float, int]], cut: float, extra: bytes
) -> None:
    data = bytearray(seed)
    for place, value in edits:
        data[int(place * (len(data) - 1))] = value
    mutated = bytes(data[: int(cut * len(data))]) + extra
    assert verdict(mutated) in ("RGB", 413, 415, 422)
