"""Pictures of every kind, whole and broken, through the one rule."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from multimodal_embedding_serving.errors import InvalidInput, UnsupportedMedia
from multimodal_embedding_serving.media.encoded import decode_base64
from multimodal_embedding_serving.media.image import (
    ImageLimits,
    ImageSource,
    decode_rgb,
)
from multimodal_embedding_serving.settings import IMAGE_FORMATS
from tests.media_files import IMAGE_KINDS, photo, tiff, write_image, write_oriented

LIMITS = ImageLimits(max_bytes=32 << 20, max_pixels=64_000_000, formats=tuple(IMAGE_FORMATS))
GRAY = {"jpeg_grey", "png_grey", "pgm", "png_16", "tiff_16", "tiff_16_big", "pgm_16", "png_la"}
EXACT = set("png tiff bmp dib ppm tga pcx sgi dds qoi webp_lossless png_rgba jpeg2000".split())


def levels(
    source: ImageSource, *, min_side: int = 0
) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    image = decode_rgb(source, LIMITS, min_side=min_side)
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int16)


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_every_kind_of_file_shows_the_same_image(kind: str) -> None:
    image = photo(96, 96)
    expected = np.asarray(image.convert("L").convert("RGB") if kind in GRAY else image)
    result = levels(write_image(kind, image))
    off = np.abs(result - expected.astype(np.int16))
    if kind in EXACT or (kind in GRAY and kind != "jpeg_grey"):
        assert off.max() == 0
    elif kind in ("tiff_float", "tiff_int"):
        gray = np.asarray(image.convert("L")).astype(float)
        stretched = np.rint((gray - gray.min()) / np.ptp(gray) * 255)
        assert np.abs(result - stretched[..., None]).max() <= 1
    elif kind == "png_bilevel":
        assert set(np.unique(result)) == {0, 255}
    else:
        assert off.mean() < 12, off.mean()


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_a_file_cut_in_half_is_a_422(kind: str) -> None:
    whole = write_image(kind)
    if kind == "gif_animated":
        whole = whole[: whole.index(b"\x21\xf9", 800)]  # the first frame is all that is needed
    with pytest.raises(InvalidInput) as raised:
        decode_rgb(whole[: len(whole) // 2], LIMITS)
    assert "0x" not in str(raised.value)
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_an_exif_orientation_is_applied(orientation: int, form: str) -> None:
    image = photo(80, 48)
    options = {"quality": 95} if form in ("JPEG", "WEBP", "AVIF") else {}
    result = levels(write_oriented(image, orientation, form, **options))
    pixels = np.asarray(image).astype(np.int16)
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
    assert result.shape == upright.shape
    assert np.abs(result - upright).mean() < 3


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
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
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
        np.linspace(0, 1e-3, 64, dtype=np.float32).reshape(8, 8),
        np.linspace(-(2**31), 2**31 - 1, 64).astype(np.int32).reshape(8, 8),
        np.linspace(-1.0, 1.0, 64, dtype=np.float32).reshape(8, 8) * np.float32(3e38),
    ],
)
def test_pillow_images_of_floats_and_deep_integers_are_stretched_by_their_own_range(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]],
) -> None:
    expected = np.rint(np.linspace(0, 255, 64)).reshape(8, 8)
    assert np.abs(levels(Image.fromarray(values))[..., 0] - expected).max() <= 1


def test_a_float_image_may_hold_nan_and_infinity() -> None:
    values = np.array([[0.0, 1.0, 2.0, np.nan, np.inf, -np.inf]], dtype=np.float32)
    assert levels(Image.fromarray(values))[0, :, 0].tolist() == [0, 128, 255, 0, 255, 0]
    for value in (np.nan, 7.5):
        assert not levels(Image.fromarray(np.full((4, 4), value, np.float32))).any()


def test_arrays_pillow_images_and_files_agree() -> None:
    image = photo()
    pixels = np.asarray(image)
    expected = levels(write_image("png"))
    for source in (image, pixels, np.dstack([pixels, pixels[..., 0]]), pixels[:, ::-1][:, ::-1]):
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


@pytest.mark.parametrize("shape", [(4,), (4, 4, 5), (4, 4, 2), (2, 4, 4, 3), (0, 4), (4, 0, 3)])
def test_an_array_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput):
        decode_rgb(np.zeros(shape, dtype=np.uint8), LIMITS)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "LA", "PA", "RGBa", "La",
             "RGBX", "I;16", "I;16B", "I;16L", "I", "F"],
)  # fmt: skip
def test_every_pillow_mode_becomes_rgb(mode: str) -> None:
    assert levels(Image.new(mode, (6, 4))).shape == (4, 6, 3)


def test_color_jpeg_2000_of_more_than_8_bits_is_a_415() -> None:
    """Pillow decodes it, but with white wrapped around to black."""
    data = write_image("jpeg2000")
    size = data.index(b"\xff\x4f\xff\x51")
    deep = bytearray(data)
    deep[size + 42 : size + 51 : 3] = bytes([11] * 3)
    with pytest.raises(UnsupportedMedia, match="3 components and 12 bits"):
        decode_rgb(bytes(deep), LIMITS)


def test_gray_jpeg_2000_keeps_its_16_bits() -> None:
    deep = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    out = io.BytesIO()
    Image.fromarray(deep).save(out, "JPEG2000")
    assert (levels(out.getvalue())[..., 0] == deep >> 8).all()


def test_a_jpeg_of_12_bits_is_not_called_damaged() -> None:
    data = bytearray(write_image("jpeg"))
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(UnsupportedMedia, match="this kind of JPEG"):
        decode_rgb(bytes(data), LIMITS)


@pytest.mark.parametrize("highest", [1, 15, 100, 255, 1023, 4095, 65535])
def test_a_pnm_is_scaled_by_its_own_maximum(highest: int) -> None:
    values = np.arange(0, highest + 1, max(1, highest // 63), dtype=">u2")
    expected = np.rint(values / highest * 255)
    body = values.astype(">u2" if highest > 255 else "u1").tobytes()
    result = levels(b"P5 %d 1 %d\n" % (len(values), highest) + body)
    # Gray of 16 bits loses its low byte instead of being rounded.
    assert np.abs(result[0, :, 0] - expected).max() <= (1 if highest > 255 else 0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planes", [1, 2])
def test_color_tiffs_of_16_bits_lose_their_low_bytes(planes: int, order: str) -> None:
    """Uncompressed planes of 16 bits are read by libtiff: Pillow takes each byte for a sample."""
    pixels = np.asarray(photo(20, 12))
    deep = (pixels.astype(order + "u2") << 8) | 0x5A
    deep = deep.transpose(2, 0, 1) if planes == 2 else deep
    data = deep.astype(order + "u2").tobytes()
    size = len(data) // planes if planes == 1 else len(data) // 3
    offsets: int | tuple[int, ...] = (8, 8 + size, 8 + 2 * size) if planes == 2 else 8
    counts: int | tuple[int, ...] = (size,) * 3 if planes == 2 else size
    tags: dict[int, int | tuple[int, ...]]
    tags = {258: (16, 16, 16), 262: 2, 277: 3, 284: planes, 273: offsets, 279: counts}
    assert (levels(tiff(data, 20, 12, tags, order)) == pixels).all()


def test_no_pixels_is_a_422() -> None:
    for source in (Image.new("RGB", (0, 0)), b""):
        with pytest.raises(InvalidInput):
            decode_rgb(source, LIMITS)


@pytest.mark.parametrize("size", [(1920, 1080), (1000, 3000), (897, 900), (4000, 448), (450, 450)])
@pytest.mark.parametrize("min_side", [64, 224])
def test_a_drafted_jpeg_keeps_twice_what_is_needed(size: tuple[int, int], min_side: int) -> None:
    data = write_image("jpeg", photo(*size), quality=90)
    drafted = decode_rgb(data, LIMITS, min_side=min_side)
    assert min(drafted.size) >= min(2 * min_side, min(size))
    assert min(drafted.size) < max(4 * min_side + 4, min(size) / 8 + 1) or drafted.size == size


def test_a_rotated_jpeg_is_drafted_and_turned() -> None:
    drafted = decode_rgb(write_oriented(photo(1600, 800), 6), LIMITS, min_side=100)
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
    "text", ["a", "abcde", "ab=c", "!!!!", "äöüß", "data:image/png,abcd", "data:base64", "====",
             "abcd\0abcd", "data:image/png;base64,%zz", "\ud800abc"],
)  # fmt: skip
def test_malformed_base64_is_a_422(text: str) -> None:
    with pytest.raises(InvalidInput):
        decode_base64(text)
