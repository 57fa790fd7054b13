"""RGB picture -> uint8 [size, size, 3], the way the model was trained: resize, then crop.

Resampling is Pillow's, antialiased: without it the vectors are off (cosine about 0.94 for CLIP).
Scaling to floats, mean and standard deviation are inside the graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
"""Half the width of a filter, in pixels of the coarser picture."""

SLENDER = 64
"""Above this ratio of the sides the short-side rule is not taken literally: a 1 x 5000 picture
would grow to 224 x 1,120,000 before its crop. The crop's window is resized alone: the same filter
over the same pixels, but for the order of the two passes, which Pillow picks by the sizes."""


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """`resize` says how a picture becomes square:

    - squash: both sides to `size`;
    - short_side: the short side to `size`, the other to int(size * long / short), then the centre
      crop with torchvision's offset, int(round((n - size) / 2.0)), half to even;
    - square_crop: the centre square first (same offset), then to `size`.
    """

    size: int
    resize: Literal["squash", "short_side", "square_crop"]
    resample: Literal["bilinear", "bicubic"]
    patches: int
    """What `usage` counts for one image."""

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """`image` is RGB, of any size; the answer is uint8 [size, size, 3]."""
        match self.resize:
            case "squash":
                square = self._scale(image, (self.size, self.size))
            case "square_crop":
                square = self._scale(_centre(image, min(image.size)), (self.size, self.size))
            case "short_side":
                square = self._short_side(image)
        return np.asarray(square)

    @property
    def at_least(self) -> int:
        """The short side that the source must keep (see `media.image.decode_rgb`)."""
        return self.size

    @property
    def copies(self) -> bool:
        """Whether the picture is copied, all of it or nearly, before it is made small."""
        return self.resize == "square_crop"

    @classmethod
    def from_manifest(cls, spec: Mapping[str, Any]) -> ImageTransform:
        return cls(spec["size"], spec["resize"], spec["resample"], spec["patches"])

    def _short_side(self, image: Image.Image) -> Image.Image:
        """The whole picture is resized and then cropped, though a part of it would do: Pillow picks
        the order of its two passes by the sizes and rounds to bytes between them, so resizing less
        than the whole changes levels by 1."""
        width, height = image.size
        long = int(self.size * max(width, height) / min(width, height))
        if long > SLENDER * self.size:
            return self._window(image, long)
        size = (long, self.size) if width >= height else (self.size, long)
        return _centre(self._scale(image, size), self.size)

    def _window(self, image: Image.Image, long: int) -> Image.Image:
        """The crop of a slender picture, resized alone from the part of the picture it covers."""
        width, height = image.size
        scale = max(width, height) / long
        start = _offset(long, self.size) * scale
        end = start + self.size * scale
        reach = SUPPORT[self.resample] * max(1.0, scale) + 1
        first, last = max(0, int(start - reach)), min(max(width, height), int(end + reach) + 1)
        square = (self.size, self.size)
        if width >= height:
            part = image.crop((first, 0, last, height))
            return part.resize(square, self._filter, (start - first, 0, end - first, height))
        part = image.crop((0, first, width, last))
        return part.resize(square, self._filter, (0, start - first, width, end - first))

    def _scale(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        return image if image.size == size else image.resize(size, self._filter)

    @property
    def _filter(self) -> Image.Resampling:
        return FILTERS[self.resample]


def _centre(image: Image.Image, side: int) -> Image.Image:
    """The square of `side` pixels in the middle of a picture that is no smaller."""
    left, top = _offset(image.width, side), _offset(image.height, side)
    return image.crop((left, top, left + side, top + side))


def _offset(length: int, kept: int) -> int:
    """torchvision's centre crop: half to even (transformers floors; that is a column of difference
    for a width of 335)."""
    return round((length - kept) / 2.0)
