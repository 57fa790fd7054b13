"""Pictures of every kind, whole and broken, through the one rule."""

from __future__ import annotations

import base64
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from multimodal_embedding_serving.errors import (
    EmbeddingError,
    InvalidInput,
    MissingExtra,
    TooLarge,
    UnrecognisedMedia,
)
from multimodal_embedding_serving.media.image import (
    ImageLimits,
    ImageSource,
    decode_base64,
    open_rgb,
    recognise,
)
from multimodal_embedding_serving.settings import IMAGE_FORMATS
from tests.media_files import IMAGE_KINDS, photo, write_image, write_oriented

LIMITS = ImageLimits(max_bytes=32 << 20, max_pixels=64_000_000, formats=tuple(IMAGE_FORMATS))
GREY = {"jpeg_grey", "png_grey", "pgm", "png_16", "tiff_16", "tiff_16_big", "pgm_16", "png_la"}
EXACT = set("png tiff bmp dib ppm tga pcx sgi dds qoi webp_lossless png_rgba jpeg2000".split())


def levels(
    source: ImageSource, *, at_least: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    image = open_rgb(source, LIMITS, at_least=at_least)
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int16)


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_every_kind_of_file_shows_the_same_picture(kind: str) -> None:
    picture = photo(96, 96)
    expected = np.asarray(picture.convert("L").convert("RGB") if kind in GREY else picture)
    found = levels(write_image(kind, picture))
    off = np.abs(found - expected.astype(np.int16))
    if kind in EXACT or (kind in GREY and kind != "jpeg_grey"):
        assert off.max() == 0
    elif kind in ("tiff_float", "tiff_int"):
        grey = np.asarray(picture.convert("L")).astype(float)
        stretched = np.rint((grey - grey.min()) / np.ptp(grey) * 255)
        assert np.abs(found - stretched[..., None]).max() <= 1
    elif kind == "png_bilevel":
        assert set(np.unique(found)) == {0, 255}
    else:
        assert off.mean() < 12, off.mean()


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_a_file_cut_in_half_is_a_422(kind: str) -> None:
    whole = write_image(kind)
    if kind == "gif_animated":
        whole = whole[: whole.index(b"\x21\xf9", 800)]  # the first frame is all that is needed
    with pytest.raises(InvalidInput) as raised:
        open_rgb(whole[: len(whole) // 2], LIMITS)
    assert "0x" not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_exif_orientation_is_applied(orientation: int, form: str) -> None:
    picture = photo(80, 48)
    options = {"quality": 95} if form in ("JPEG", "WEBP", "AVIF") else {}
    found = levels(write_oriented(picture, orientation, form, **options))
    pixels = np.asarray(picture).astype(np.int16)
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels),
    }[orientation]
    assert found.shape == upright.shape
    assert np.abs(found - upright).mean() < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 7), (257, 129)])
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp_lossless", "gif", "tiff"])
def test_odd_sizes_come_through_whole(size: tuple[int, int], kind: str) -> None:
    assert levels(write_image(kind, photo(*size))).shape == (size[1], size[0], 3)


def test_alpha_is_dropped_and_not_composited() -> None:
    red = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (levels(write_image("png", red)) == (255, 0, 0)).all()
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 0, 0, 255])
    assert (levels(write_image("png", palette, transparency=1)) == (0, 0, 255)).all()


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for form in ("GIF", "WEBP", "PNG", "TIFF", "AVIF"):
        out = io.BytesIO()
        options = {"lossless": True} if form == "WEBP" else {}
        frames[0].save(out, form, save_all=True, append_images=frames[1:], **options)
        red, green, blue = levels(out.getvalue()).mean(axis=(0, 1))
        assert red > 200, form
        assert max(green, blue) < 50, form


def test_sixteen_bit_grey_loses_its_low_byte_in_files_images_and_arrays() -> None:
    deep = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.repeat((deep >> 8).astype(np.int16)[..., None], 3, axis=2)
    out = io.BytesIO()
    Image.fromarray(deep).save(out, "PNG")
    for source in (out.getvalue(), Image.fromarray(deep), deep, deep[..., None]):
        assert (levels(source) == expected).all()


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(-3.5, 9.25, 64, dtype=np.float32).reshape(8, 8),
        np.linspace(0, 1e-3, 64).reshape(8, 8),
        np.linspace(-(2**31), 2**31 - 1, 64).astype(np.int32).reshape(8, 8),
        np.linspace(30_000, 30_063, 64).astype(np.int64).reshape(8, 8),
        np.linspace(-1.0, 1.0, 64).reshape(8, 8) * 1.7e308,
    ],
)
def test_floats_and_deep_integers_are_stretched_by_their_own_range(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> None:
    expected = np.rint(np.linspace(0, 255, 64)).reshape(8, 8)
    assert np.abs(levels(values)[..., 0] - expected).max() <= 1
    if values.dtype in (np.float32, np.int32):
        assert np.abs(levels(Image.fromarray(values))[..., 0] - expected).max() <= 1


def test_a_float_image_may_hold_nan_and_infinity() -> None:
    values = np.array([[0.0, 1.0, 2.0, np.nan, np.inf, -np.inf]], dtype=np.float32)
    assert levels(values)[0, :, 0].tolist() == [0, 128, 255, 0, 255, 0]
    assert not levels(np.full((4, 4), np.nan)).any()
    assert not levels(np.full((4, 4), 7.5)).any()


def test_arrays_pillow_images_and_files_agree() -> None:
    picture = photo()
    pixels = np.asarray(picture)
    expected = levels(write_image("png"))
    for source in (picture, pixels, np.dstack([pixels, pixels[..., 0]]), pixels[:, ::-1][:, ::-1]):
        assert (levels(source) == expected).all()
    assert (levels(np.ones((2, 2), dtype=bool)) == 255).all()


def test_a_callers_image_is_left_as_it_was() -> None:
    image = Image.open(io.BytesIO(write_oriented(photo(), 6)))
    assert levels(image).shape == (64, 48, 3)
    assert image.size == (64, 48)
    palette = photo().quantize(8)
    palette.info["transparency"] = bytes(8)
    levels(palette)
    assert "transparency" in palette.info


@pytest.mark.parametrize("shape", [(4,), (4, 4, 5), (2, 4, 4, 3), (0, 4), (4, 0, 3)])
def test_an_array_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput):
        open_rgb(np.zeros(shape, dtype=np.uint8), LIMITS)


def test_an_array_that_holds_no_numbers_is_refused() -> None:
    for array in (np.zeros((2, 2), dtype=complex), np.array([["a", "b"]])):
        with pytest.raises(InvalidInput):
            open_rgb(array, LIMITS)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBa", "La",
             "RGBX", "I;16", "I;16B", "I;16L", "I", "F"],
)  # fmt: skip
def test_every_pillow_mode_becomes_rgb(mode: str) -> None:
    assert levels(Image.new(mode, (6, 4))).shape == (4, 6, 3)


def test_no_pixels_is_a_422() -> None:
    for source in (Image.new("RGB", (0, 0)), b""):
        with pytest.raises(InvalidInput):
            open_rgb(source, LIMITS)


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
    with pytest.raises(UnrecognisedMedia) as raised:
        open_rgb(NOT_IMAGES[name], LIMITS)
    assert "JPEG" in raised.value.message


def test_a_format_that_is_not_allowed_is_a_415_even_where_it_could_be_opened() -> None:
    narrow = ImageLimits(max_bytes=1 << 20, max_pixels=10**6, formats=("PNG", "JPEG"))
    assert open_rgb(write_image("png"), narrow).mode == "RGB"
    with pytest.raises(UnrecognisedMedia, match="BMP images are not allowed here"):
        open_rgb(write_image("bmp"), narrow)


def test_the_signature_decides_for_every_kind() -> None:
    for kind in IMAGE_KINDS:
        expected = {"PGM": "PPM"}.get(form := kind.split("_")[0].upper(), form)
        assert recognise(write_image(kind)) == expected


def heic_header(brand: bytes, *others: bytes) -> bytes:
    body = brand + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(body)) + b"ftyp" + body + bytes(64)


def test_heic_is_told_from_avif_by_its_brands() -> None:
    assert recognise(heic_header(b"heic", b"mif1")) == "HEIF"
    assert recognise(heic_header(b"mif1", b"heic")) == "HEIF"
    assert recognise(heic_header(b"mif1", b"avif")) == "AVIF"
    assert recognise(heic_header(b"isom", b"mp42")) is None


def test_heic_without_its_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    with pytest.raises(MissingExtra, match=r"\[heif\]"):
        open_rgb(heic_header(b"heic", b"mif1"), LIMITS)


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
        open_rgb(hostile_headers()[name], LIMITS)


def test_the_pixel_limit_holds_for_images_and_arrays_too() -> None:
    tight = ImageLimits(max_bytes=1000, max_pixels=99, formats=("PNG",))
    for source in (Image.new("L", (10, 10)), np.zeros((10, 10), dtype=np.uint8)):
        with pytest.raises(TooLarge):
            open_rgb(source, tight)


def test_pillows_global_pixel_limit_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert open_rgb(write_image("png"), LIMITS).size == (64, 48)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(TooLarge):
        open_rgb(png_header(100_000, 100_000), LIMITS)


def test_decoders_that_pillow_runs_in_python_have_a_lower_limit() -> None:
    with pytest.raises(TooLarge, match="QOI image"):
        open_rgb(write_image("qoi", Image.new("RGB", (2100, 2100))), LIMITS)


def test_bytes_above_the_limit_are_a_413() -> None:
    with pytest.raises(TooLarge, match="bytes"):
        open_rgb(write_image("bmp"), ImageLimits(max_bytes=100, max_pixels=10**6, formats=("BMP",)))


def verdict(data: bytes) -> str | int:
    """The mode of the opened image, or the status of the refusal; anything else gets through."""
    try:
        return open_rgb(data, LIMITS, at_least=4).mode
    except EmbeddingError as error:
        leaks = "0x" in str(error) or "PIL" in str(error)
        return "leak" if leaks else error.status


SEEDS = [write_image(kind, photo(24, 16)) for kind in IMAGE_KINDS]


@settings(max_examples=500, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
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


@pytest.mark.parametrize("size", [(1920, 1080), (1000, 3000), (897, 900), (4000, 448), (450, 450)])
@pytest.mark.parametrize("at_least", [64, 224])
def test_a_drafted_jpeg_keeps_twice_what_is_needed(size: tuple[int, int], at_least: int) -> None:
    data = write_image("jpeg", photo(*size), quality=90)
    drafted = open_rgb(data, LIMITS, at_least=at_least)
    assert min(drafted.size) >= min(2 * at_least, min(size))
    assert min(drafted.size) < max(4 * at_least + 4, min(size) / 8 + 1) or drafted.size == size


def test_a_rotated_jpeg_is_drafted_and_turned() -> None:
    drafted = open_rgb(write_oriented(photo(1600, 800), 6), LIMITS, at_least=100)
    assert drafted.size == (200, 400)


def test_base64_may_be_raw_or_a_data_uri_with_white_space() -> None:
    data = write_image("png")
    text = base64.b64encode(data).decode()
    lines = "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    escaped = "data:image/png;base64," + text.replace("+", "%2B").replace("=", "%3D")
    for spelling in (
        text, lines, f" {text}\r\n", f"data:image/png;base64,{text}", escaped,
        f"DATA:image/png;charset=utf-8;BASE64, {lines}", f"data:;base64,{text}",
    ):  # fmt: skip
        assert decode_base64(spelling) == data


@pytest.mark.parametrize(
    "text", ["a", "abc", "ab=c", "!!!!", "äöüß", "data:image/png,abcd", "data:base64", "====",
             "abcd\0abcd", "data:image/png;base64,%zz", "\ud800abc"],
)  # fmt: skip
def test_malformed_base64_is_a_422(text: str) -> None:
    with pytest.raises(InvalidInput):
        decode_base64(text)
