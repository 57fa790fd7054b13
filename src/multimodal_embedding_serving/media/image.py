"""Any image -> an RGB image, by the same rules for every source.

The signature selects the decoder (never a name or a declared type), the header is checked against
the limits before a pixel is decoded, and decoding is complete: a truncated file fails here, alone.
Then the EXIF orientation is applied, 16-bit gray is divided by 256, other deep gray is normalized
to its own range (Pillow's conversion clips it: X-rays would all look white), alpha is dropped, and
the rest is converted to RGB. An animation gives its first frame. Pillow's error messages contain
memory addresses and never leave this file.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from multimodal_embedding_serving.errors import InvalidInput, TooLarge, UnsupportedMedia
from multimodal_embedding_serving.image_arrays import drop_alpha, to_uint8
from multimodal_embedding_serving.media.budget import Reserve
from multimodal_embedding_serving.media.formats import recognize
from multimodal_embedding_serving.media.grayscale import normalize_range
from multimodal_embedding_serving.media.heif import pixels_to_decode
from multimodal_embedding_serving.media.jpeg import load_unterminated
from multimodal_embedding_serving.media.tiff import ORIENTATION, TRANSPOSITIONS, Tiff, open_tiff
from multimodal_embedding_serving.settings import Settings

ImageSource = bytes | Image.Image | NDArray[Any]
"""An encoded file, a Pillow image, or an array (see `image_arrays.to_uint8`)."""

JpegDecode = Literal["exact", "fast"]
"""exact: at full size. fast: scaled down while decoding (see `decode_rgb`)."""

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
    "HEIF": ("pi_heif", "HeifImageFile"),
}
"""Format -> module and class. They are called directly, not through `Image.open`, so that no other
format can be reached and neither Pillow's registry nor its global pixel limit matters here."""

PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, ArithmeticError,
    RuntimeError, AttributeError, AssertionError, struct.error, zlib.error,
    Warning,
)  # fmt: skip
"""What Pillow's decoders raise on bad bytes (from fuzzing); none of it is a server error."""

NOT_SUPPORTED = re.compile(r"unsupported|not supported|cannot handle|unimplemented", re.IGNORECASE)
"""What Pillow says of headers that are sound, such as that of a 12-bit JPEG."""

MAX_PARTS = 4
"""A HEIC's parts together may have this many times the pixels of the largest image: the tiles of a
photo have as many as the photo, and its alpha as many again."""
JPEG2000_SIZE = b"\xff\x4f\xff\x51"
"""Start of a codestream and of its size: precision and number of components follow."""

MAX_INTERPRETED_PIXELS = 4 << 20
"""For decoders that Pillow implements in Python, at up to 3 us per pixel (QOI, uncompressed DDS,
RLE BMP, plain PPM): 12 s of a core at worst; 64 megapixels would take minutes."""

SCRATCH = {"WEBP": 12, "JPEG2000": 16, "AVIF": 6, "HEIF": 6}
"""Bytes per pixel that decoders need for themselves, measured on 12 megapixels."""
DEEP_SCRATCH = 6
"""The same for progressive JPEGs (all coefficients) and for 32-bit gray (a copy)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    max_bytes: int
    max_pixels: int
    formats: tuple[str, ...]
    """Keys of DECODERS that are allowed."""


DAMAGED = "could not decode the image: it is damaged or incomplete; send the whole file"


def decode_rgb(
    source: ImageSource,
    limits: ImageLimits,
    *,
    min_side: int = 0,
    copied: bool = False,
    reserve: Reserve = lambda size, scratch=0: None,
) -> Image.Image:
    """Decode `source` completely and convert it to RGB.

    `min_side` is the short side in pixels that the caller will resize to: a larger JPEG is decoded
    directly to a half, a quarter or an eighth, as long as both sides stay at least twice that
    (4000x3000 in 37 ms instead of 146; docs/parity.md has the cosines). 0 decodes at full size.
    `reserve` is called with the memory that the image needs before it is allocated; `copied` adds
    the copy that the caller will make.

    Raises UnsupportedMedia (unknown signature, format or kind of TIFF, no decoder for HEIC),
    TooLarge (bytes or pixels, before decoding), InvalidInput (damaged).
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, limits, copied, reserve)
    try:
        if isinstance(source, Image.Image):
            image = source
            _check_size(image.size, limits)
        else:
            image = _read_header(source, limits, min_side)
        reserve(*_decoded_bytes(image, copied))
        image = _load(image, source, min_side)
        transposition = _transposition(image)
        image = _to_8_bits(image)  # rebinding the name frees the decoded image
        return _to_rgb(image if transposition is None else image.transpose(transposition))
    except MemoryError:
        raise TooLarge("not enough memory to decode the image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        limit = f"{limits.max_pixels / 1e6:.4g} megapixels (EMBEDDING_MAX_IMAGE_MPIX)"
        raise TooLarge(f"the image has too many pixels; the limit is {limit}") from None
    except PILLOW_ERRORS:
        raise InvalidInput(DAMAGED) from None


def image_size(data: bytes, limits: ImageLimits) -> tuple[int, int]:
    """Width and height in stored pixels, from the header; raises as `decode_rgb` does."""
    try:
        return _read_header(data, limits, 0).size
    except PILLOW_ERRORS:
        raise InvalidInput(DAMAGED) from None


def _decoded_bytes(image: Image.Image, copied: bool) -> tuple[int, int]:
    """Bytes for the image (Pillow's pixels, and a second copy if they are rotated, converted or
    `copied`; these happen one after another), and bytes that its decoder needs on top."""
    pixels = image.width * image.height
    scratch = SCRATCH.get(image.format or "", 0)
    if image.mode in ("I", "F") or image.info.get("progressive"):
        scratch = DEEP_SCRATCH
    if image.mode in ("RGBa", "La"):
        scratch += 4  # converted to RGB through another mode
    return pixels * (8 if copied or not _is_final(image) else 4), pixels * scratch


def _is_final(image: Image.Image) -> bool:
    if image.mode != "RGB" or "transparency" in image.info:
        return False
    getexif_decodes = image.format == "PNG" and "exif" not in image.info
    return getexif_decodes or _transposition(image) is None


def _read_header(data: bytes, limits: ImageLimits, min_side: int) -> Image.Image:
    """Open the image and check its header against the limits; no pixel is decoded yet."""
    if not data:
        raise InvalidInput("the image is empty; send the bytes of a file")
    if len(data) > limits.max_bytes:
        raise TooLarge(
            f"the image has {len(data):,} bytes; the limit is {limits.max_bytes:,} "
            "(EMBEDDING_MAX_IMAGE_MB)"
        )
    name = recognize(data)
    formats = ", ".join(limits.formats)
    if name is None:
        raise UnsupportedMedia(f"not a supported image format (supported: {formats})")
    if name not in limits.formats:
        raise UnsupportedMedia(
            f"{name} images are not allowed (EMBEDDING_IMAGE_FORMATS: {formats})"
        )
    if name == "HEIF":
        _check_parts(data, limits)
    if name == "ICO":
        for size in _icon_sizes(data):
            _check_size(size, limits)
    image = _open(name, data)
    _check_size(image.true_size if isinstance(image, Tiff) else image.size, limits)
    if any(tile.codec_name in Image.DECODERS for tile in image.tile):
        _check_pixels(image.size, min(limits.max_pixels, MAX_INTERPRETED_PIXELS), f"{name} image")
    return _draft(image, data, min_side) if name == "JPEG" else image


def _open(name: str, data: bytes) -> ImageFile.ImageFile:
    if name == "TIFF":
        return open_tiff(data)
    if name == "JPEG2000":
        _check_precision(data)
    module, kind = DECODERS[name]
    try:
        decoder = getattr(import_module(module), kind)
    except ImportError:
        raise UnsupportedMedia(
            f"{name} images need the package {module}, which is not installed: "
            f"pip install {module.replace('_', '-')}"
        ) from None
    try:
        image: ImageFile.ImageFile = decoder(io.BytesIO(data))
    except PILLOW_ERRORS as error:
        if not NOT_SUPPORTED.search(str(error)):
            raise
        raise UnsupportedMedia(
            f"this kind of {name} image is not supported; save it as a PNG, or as a JPEG of 8 bits"
        ) from None
    return image


def _draft(image: ImageFile.ImageFile, data: bytes, min_side: int) -> ImageFile.ImageFile:
    """Let libjpeg scale down while decoding, to at least twice the side that is needed."""
    min_decoded = 2 * min_side
    if min_side <= 0 or min(image.size) < 2 * min_decoded:
        return image
    image.draft(None, (min_decoded, min_decoded))
    return image if min(image.size) >= min_decoded else _open("JPEG", data)


def _check_parts(data: bytes, limits: ImageLimits) -> None:
    """What a HEIC is composed of, too: its tiles and its alpha are decoded in full."""
    largest, total = pixels_to_decode(data)
    if largest > limits.max_pixels or total > MAX_PARTS * limits.max_pixels:
        raise TooLarge(
            f"the image is composed of parts of {total / 1e6:.4g} megapixels, the largest of "
            f"{largest / 1e6:.4g}; the limits are {MAX_PARTS * limits.max_pixels / 1e6:.4g} and "
            f"{limits.max_pixels / 1e6:.4g} megapixels (EMBEDDING_MAX_IMAGE_MPIX)"
        )


def _check_precision(data: bytes) -> None:
    """Reject color JPEG 2000 of more than 8 bits, whose brightest samples Pillow makes black.

    It rounds 1023 of 10 bits to 256 of 8, which is 0 (Pillow 13.0); gray keeps its 16 bits.
    """
    start = data.find(JPEG2000_SIZE)
    if start < 0 or start + 42 > len(data):
        return
    (components,) = struct.unpack_from(">H", data, start + 40)
    bits = [(each & 0x7F) + 1 for each in data[start + 42 : start + 42 + 3 * components : 3]]
    if components > 1 and max(bits, default=0) > 8:
        raise UnsupportedMedia(
            f"JPEG2000 images of {components} components and {max(bits)} bits are not supported; "
            "save it with 8 bits, or as a PNG"
        )


def _icon_sizes(data: bytes) -> list[tuple[int, int]]:
    """True sizes of an icon's images: its directory has one byte per side and may be wrong."""
    sizes = []
    for entry in range(6, 6 + 16 * int.from_bytes(data[4:6], "little"), 16):
        (start,) = struct.unpack_from("<I", data, entry + 12)
        if data[start : start + 8] == b"\x89PNG\r\n\x1a\n":
            sizes.append(struct.unpack_from(">II", data, start + 16))
        elif data[start : start + 4] == b"\x0c\0\0\0":
            sizes.append(struct.unpack_from("<HH", data, start + 4))
        else:
            width, height = struct.unpack_from("<ii", data, start + 4)
            sizes.append((abs(width), abs(height) // 2))  # colors and mask, one below the other
    return sizes


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    _check_pixels(size, limits.max_pixels, "image", " (EMBEDDING_MAX_IMAGE_MPIX)")


def _check_pixels(size: tuple[int, int], max_pixels: int, kind: str, setting: str = "") -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InvalidInput("the image has no pixels")
    if width * height > max_pixels:
        raise TooLarge(
            f"the {kind} has {width} x {height} pixels; "
            f"the limit is {max_pixels / 1e6:.4g} megapixels{setting}"
        )


def _transposition(image: Image.Image) -> Image.Transpose | None:
    """The EXIF orientation; None if the metadata can't be read."""
    try:
        return TRANSPOSITIONS.get(image.getexif().get(ORIENTATION, 1))
    except PILLOW_ERRORS:
        return None


def _load(image: Image.Image, source: ImageSource, min_side: int) -> Image.Image:
    """Decode the image completely. Raises OSError if the file is truncated."""
    try:
        image.load()
        return image
    except OSError:
        if not (isinstance(source, bytes) and image.format == "JPEG"):
            raise
    del image  # outside the handler: the exception's traceback refers to its pixels, too
    return load_unterminated(source, lambda data: _draft(_open("JPEG", data), data, min_side))


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Gray of more bits as `L`; any other image as it is."""
    if isinstance(image, Tiff):
        return image.to_8_bits()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # The full scale of a PGM is 65535, too.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        return Image.fromarray(normalize_range(np.asarray(image)))
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBa", "La"):
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    if "transparency" in image.info:  # Pillow would warn, or fail if it is malformed
        image = image.copy()
        del image.info["transparency"]
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_array(
    array: NDArray[Any], limits: ImageLimits, copied: bool, reserve: Reserve
) -> Image.Image:
    pixels = drop_alpha(array)
    height, width = pixels.shape[:2]
    _check_size((width, height), limits)
    reserve(height * width * (8 if copied or pixels.ndim == 2 else 4))
    return _to_rgb(Image.fromarray(np.ascontiguousarray(to_uint8(pixels))))


def choose_jpeg_decode(settings: Settings) -> JpegDecode:
    """The setting; auto is exact only if float32 was requested by name.

    It must not depend on the CPU: `EMBEDDING_PRECISION=auto` computes in float32 on some CPUs and
    in bfloat16 on others, and the same image must give the same pixels on all of them.
    """
    if settings.jpeg_decode == "auto":
        return "exact" if settings.precision == "f32" else "fast"
    return "exact" if settings.jpeg_decode == "exact" else "fast"


def image_limits(settings: Settings) -> ImageLimits:
    return ImageLimits(
        max_bytes=settings.max_image_mb * 2**20,
        max_pixels=settings.max_image_mpix * 10**6,
        formats=settings.image_formats,
    )
