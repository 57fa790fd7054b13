"""Any picture -> one RGB picture, by one rule for every source.

The signature chooses the decoder (never a name or a declared type), the header is held to the
limits before a pixel is decoded, and decoding is complete: a truncated file fails here, alone.
Then: EXIF orientation applied; 16-bit grey brought down by 1/256, other deep grey by its own range
(Pillow's own conversion clips them: X-rays would all look white); alpha dropped; RGB. Of an
animation, the first frame. Pillow's error texts hold memory addresses and never leave this file.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from multimodal_embedding_serving.errors import (
    InvalidInput,
    MissingExtra,
    TooLarge,
    UnsupportedMedia,
)
from multimodal_embedding_serving.media.budget import Reserve
from multimodal_embedding_serving.media.formats import recognize
from multimodal_embedding_serving.media.grayscale import by_own_range
from multimodal_embedding_serving.settings import Settings

ImageSource = bytes | Image.Image | NDArray[Any]
"""An encoded file, a Pillow image, or an array [H, W], [H, W, 1..4] (grey, grey + alpha, RGB, RGBA)
of any real type."""

DECODERS = {
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "JPEG2000": ("PIL.Jpeg2KImagePlugin", "Jpeg2KImageFile"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "DIB": ("PIL.BmpImagePlugin", "DibImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "ICO": ("PIL.IcoImagePlugin", "IcoImageFile"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
    "TGA": ("PIL.TgaImagePlugin", "TgaImageFile"),
    "PCX": ("PIL.PcxImagePlugin", "PcxImageFile"),
    "SGI": ("PIL.SgiImagePlugin", "SgiImageFile"),
    "DDS": ("PIL.DdsImagePlugin", "DdsImageFile"),
    "QOI": ("PIL.QoiImagePlugin", "QoiImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIF": ("pillow_heif", "HeifImageFile"),
}
"""Format -> module and class. Called directly, not through `Image.open`: no other format can be
reached, and neither Pillow's registry nor its global pixel limit decides anything here."""

DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, ArithmeticError,
    RuntimeError, AttributeError, AssertionError, struct.error, zlib.error,
    Warning,
)  # fmt: skip
"""What Pillow's decoders raise on bad bytes, as found by fuzzing; none of it is a server fault."""

ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

MAX_INTERPRETED_PIXELS = 4 << 20
"""For decoders that Pillow runs in Python, at up to 3 us a pixel (QOI, uncompressed DDS, RLE BMP,
plain PPM): 12 s of a core at worst, where 64 Mpix would take minutes."""

SCRATCH = {"WEBP": 12, "JPEG2000": 16, "AVIF": 6, "HEIF": 6}
"""Bytes a pixel that decoders need for themselves, as measured on 12 megapixels."""
DEEP_SCRATCH = 6
"""The same for progressive JPEGs (all coefficients) and for 32-bit greys (a copy)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    max_bytes: int
    max_pixels: int
    formats: tuple[str, ...]
    """Keys of DECODERS that may be opened."""


def decode_rgb(
    source: ImageSource,
    limits: ImageLimits,
    *,
    at_least: int = 0,
    copied: bool = False,
    reserve: Reserve = lambda size, scratch=0: None,
) -> Image.Image:
    """Decode `source` fully and bring it to an RGB image.

    `at_least` is the short side in pixels that the caller will resize to: a larger JPEG is decoded
    straight to a half, a quarter or an eighth, as long as both sides stay twice that (4000x3000 in
    37 ms instead of 146, at most 2 grey levels off). 0 decodes in full. `reserve` hears how many
    bytes the picture will take, before they are taken; `copied` tells that the caller's copy of it
    counts too.

    Raises UnsupportedMedia (no known signature, or a format that is not allowed), TooLarge
    (bytes or pixels, before decoding), InvalidInput (can't be decoded), MissingExtra (HEIC without
    the extra `heif`).
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, limits, copied, reserve)
    try:
        if isinstance(source, Image.Image):
            image = source
            _check_size(image.size, limits)
        else:
            image = _read_header(source, limits, at_least)
        reserve(*_decoded_bytes(image, copied))
        image.load()
        image = _upright(image)  # the name goes with it: what was decoded is not kept any longer
        return _to_rgb(image)
    except MemoryError:
        raise TooLarge("the image takes more memory to decode than there is") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = f"{limits.max_pixels / 1e6:.4g} megapixels"
        raise TooLarge(f"the image has too many pixels; the limit is {most}") from None
    except DECODER_ERRORS:
        raise InvalidInput("the image can't be decoded: it is damaged or incomplete") from None


def _decoded_bytes(image: Image.Image, copied: bool) -> tuple[int, int]:
    """What the picture takes (the pixels as Pillow keeps them, once more where they are turned,
    brought to RGB or `copied`: one after the other), and what its decoder takes beside that."""
    pixels = image.width * image.height
    scratch = SCRATCH.get(image.format or "", 0)
    if image.mode in ("I", "F") or image.info.get("progressive"):
        scratch = DEEP_SCRATCH
    if image.mode in ("RGBa", "La"):
        scratch += 4  # brought to RGB by way of another mode
    return pixels * (8 if copied or not _is_final(image) else 4), pixels * scratch


def _is_final(image: Image.Image) -> bool:
    if image.mode != "RGB" or "transparency" in image.info:
        return False
    asking_decodes = image.format == "PNG" and "exif" not in image.info
    return asking_decodes or _turn(image) is None


def _read_header(data: bytes, limits: ImageLimits, at_least: int) -> Image.Image:
    """Hold the header to the limits; no pixel is decoded yet."""
    if not data:
        raise InvalidInput("the image is empty")
    if len(data) > limits.max_bytes:
        raise TooLarge(
            f"the image has {len(data):,} bytes; the limit is {limits.max_bytes:,} bytes"
        )
    name = recognize(data)
    if name is None or name not in limits.formats:
        found = "this is not an image" if name is None else f"{name} images are not allowed here"
        raise UnsupportedMedia(f"{found}; formats that are: {', '.join(limits.formats)}")
    if name == "ICO":
        for size in _icon_sizes(data):
            _check_size(size, limits)
    image = _open(name, data)
    _check_size(image.size, limits)
    if any(tile.codec_name in Image.DECODERS for tile in image.tile):
        _check_pixels(image.size, min(limits.max_pixels, MAX_INTERPRETED_PIXELS), f"{name} image")
    if name == "JPEG" and at_least > 0:
        image = _draft(image, data, at_least)
    return image


def _open(name: str, data: bytes) -> ImageFile.ImageFile:
    module, kind = DECODERS[name]
    try:
        decoder = getattr(import_module(module), kind)
    except ImportError:
        raise MissingExtra("HEIC images", "heif") from None
    opened: ImageFile.ImageFile = decoder(io.BytesIO(data))
    return opened


def _draft(image: ImageFile.ImageFile, data: bytes, at_least: int) -> ImageFile.ImageFile:
    """Let libjpeg scale down while decoding, to no less than twice what is needed."""
    least = 2 * at_least
    if min(image.size) < 2 * least:
        return image
    image.draft(None, (least, least))
    return image if min(image.size) >= least else _open("JPEG", data)


def _icon_sizes(data: bytes) -> list[tuple[int, int]]:
    """True sizes of an icon's pictures: its directory has one byte a side, and may lie."""
    sizes = []
    for entry in range(6, 6 + 16 * int.from_bytes(data[4:6], "little"), 16):
        (start,) = struct.unpack_from("<I", data, entry + 12)
        if data[start : start + 8] == b"\x89PNG\r\n\x1a\n":
            sizes.append(struct.unpack_from(">II", data, start + 16))
        elif data[start : start + 4] == b"\x0c\0\0\0":
            sizes.append(struct.unpack_from("<HH", data, start + 4))
        else:
            width, height = struct.unpack_from("<ii", data, start + 4)
            sizes.append((abs(width), abs(height) // 2))  # colours and mask, one below the other
    return sizes


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    _check_pixels(size, limits.max_pixels, "image")


def _check_pixels(size: tuple[int, int], most: int, kind: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InvalidInput("the image has no pixels")
    if width * height > most:
        raise TooLarge(
            f"the {kind} has {width} x {height} pixels; the limit is {most / 1e6:.4g} megapixels"
        )


def _turn(image: Image.Image) -> Image.Transpose | None:
    """The EXIF orientation; metadata that can't be read says nothing about it."""
    try:
        return TURNS.get(image.getexif().get(ORIENTATION, 1))
    except DECODER_ERRORS:
        return None


def _upright(image: Image.Image) -> Image.Image:
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        return _grey((np.asarray(image) >> 8).astype(np.uint8))  # a PGM's full scale is 65535 too
    if mode in ("I", "F"):
        return _grey(by_own_range(np.asarray(image)))
    if mode in ("RGBa", "La"):
        image = image.convert("RGBA" if mode == "RGBa" else "LA")
    if "transparency" in image.info:  # Pillow would warn of it, or fail on a malformed one
        image = image.copy()
        del image.info["transparency"]
    return image if mode == "RGB" else image.convert("RGB")


def _grey(levels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(levels).convert("RGB")


def _from_array(
    array: NDArray[Any], limits: ImageLimits, copied: bool, reserve: Reserve
) -> Image.Image:
    if array.ndim == 3 and 1 <= array.shape[2] <= 4:
        array = array[..., 0] if array.shape[2] < 3 else array[..., :3]
    elif array.ndim != 2:
        raise InvalidInput("an image array must be [height, width] or [height, width, channels]")
    _check_size((array.shape[1], array.shape[0]), limits)
    reserve(array.shape[0] * array.shape[1] * (8 if copied or array.ndim == 2 else 4))
    if array.dtype == np.bool_:
        levels = array.astype(np.uint8) * 255
    elif array.dtype == np.uint8:
        levels = array
    elif array.dtype == np.uint16:
        levels = (array >> 8).astype(np.uint8)
    elif array.dtype.kind in "iuf":
        levels = by_own_range(array)
    else:
        raise InvalidInput("an image array must hold integers, floats or booleans")
    image = Image.fromarray(np.ascontiguousarray(levels))
    return image if image.mode == "RGB" else image.convert("RGB")


def image_limits(settings: Settings) -> ImageLimits:
    return ImageLimits(
        max_bytes=settings.max_image_mb * 2**20,
        max_pixels=settings.max_image_mpix * 10**6,
        formats=settings.image_formats,
    )
