"""Arrays of this process as images: one rule for the engine and for the HTTP client."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.errors import InvalidInput

SHAPES = "[height, width] or [height, width, channels] with 1, 3 or 4 channels"
VALUES = "bool, uint8, uint16, or float16, float32 or float64 within [0, 1]"
FLOATS = (np.float16, np.float32, np.float64)
BLOCK = 1 << 20
"""Floats that are scaled at a time, so that doubles take 8 MB, not 512."""


def to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    """The pixels of an image array: uint8 [height, width] or [height, width, 3].

    bool becomes 0 and 255, uint8 stays, uint16 loses its low byte, floats within [0, 1] become
    rint(255 * x); alpha is dropped. Nothing else is guessed at: other types are often images too,
    but their arrays do not say which values are black and white.

    Raises InvalidInput with the shape, or with the type, minimum and maximum, of any other array.
    """
    pixels = drop_alpha(array)
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype.type is np.uint16:  # of either byte order
        return (pixels >> 8).astype(np.uint8)
    # `all` of one comparison, because NaN is in no range
    if pixels.dtype.type in FLOATS and ((pixels >= 0) & (pixels <= 1)).all():
        return _scale(pixels)
    raise InvalidInput(
        f"an image array must be {VALUES}; this one is {pixels.dtype} {_range(pixels)}"
    )


def drop_alpha(array: NDArray[Any]) -> NDArray[Any]:
    """A view [height, width] or [height, width, 3] of an image array.

    Raises InvalidInput for arrays of another shape, without pixels, or masked.
    """
    if isinstance(array, np.ma.MaskedArray):
        raise InvalidInput("masked image arrays are not supported; use array.filled(value)")
    pixels = np.asarray(array)  # of a subclass, such as a matrix, the plain array
    shape = pixels.shape
    if len(shape) != 2 and not (len(shape) == 3 and shape[2] in (1, 3, 4)):
        raise InvalidInput(
            f"an image array must have shape {SHAPES}, not {list(shape)}{_shape_hint(shape)}"
        )
    if not pixels.size:
        raise InvalidInput("the image has no pixels")
    if len(shape) == 2:
        return pixels
    return pixels[..., 0] if shape[2] == 1 else pixels[..., :3]


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and shape[2] == 2:
        return "; for gray with alpha, use array[..., 0]"
    if len(shape) == 3 and shape[0] in (1, 3, 4):
        return "; are its channels first? Use array.transpose(1, 2, 0)"
    return "; for a batch of images, use list(array)" if len(shape) == 4 else ""


def _scale(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    levels = np.empty(pixels.shape, dtype=np.uint8)
    step = max(1, BLOCK // pixels[0].size)
    for start in range(0, len(pixels), step):
        block = pixels[start : start + step].astype(np.float64)
        levels[start : start + step] = np.rint(block * 255)
    return levels


def _range(pixels: NDArray[Any]) -> str:
    """The smallest and the largest value, as far as the type has an order."""
    if pixels.dtype.kind not in "iuf":
        return "and holds no real numbers"
    missing = pixels.dtype.kind == "f" and bool(np.isnan(pixels).any())
    numbers = pixels[~np.isnan(pixels)] if missing else pixels
    if not numbers.size:
        return "and all its values are NaN"
    text = f"with minimum {numbers.min():g} and maximum {numbers.max():g}"
    return f"{text} and NaN" if missing else text
