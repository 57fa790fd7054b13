"""RGB image -> uint8 [size, size, 3], as the model was trained: resize, then crop.

Pillow resamples with antialiasing: without it, the vectors are off (cosine about 0.94 for CLIP).
Scaling to floats, the mean and the standard deviation are inside the graph.
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
"""Half the width of a filter, in pixels of the coarser image."""

MAX_ASPECT_RATIO = 64
"""Above this ratio, only the part of the image under the crop is resized: a 1 x 5000 image would
grow to 224 x 1,120,000 before its crop. The filter covers the same pixels; only the order of its
two passes, which Pillow chooses by the sizes, may differ."""


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """`resize` is the way an image becomes square:

    - squash: both sides to `size`;
    - short_side: the short side to `size`, the other to int(size * long / short), then the center
      crop with torchvision's offset, int(round((n - size) / 2.0)), half to even;
    - square_crop: the center square first (same offset), then to `size`.
    """

    size: int
    resize: Literal["squash", "short_side", "square_crop"]
    resample: Literal["bilinear", "bicubic"]
    patches: int
    """Tokens that `usage` counts for one image."""

    def __call__(
        self, image: Image.Image, shown: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """`image` is RGB, of any size; returns uint8 [size, size, 3].

        `shown` is the width and height at which pixels that are not square are displayed: the rule
        is applied to it, and the pixels are resampled once.
        """
        shown = shown or image.size
        match self.resize:
            case "squash":
                square = self._scale(image, (self.size, self.size))
            case "square_crop":
                square = self._square_crop(image, shown)
            case "short_side":
                square = self._short_side(image, shown)
        return np.asarray(square)

    @property
    def min_side(self) -> int:
        """The short side that a decoded image must have at least (see `media.image.decode_rgb`)."""
        return self.size

    @property
    def copies(self) -> bool:
        """Whether all or most of the image is copied before it is resized."""
        return self.resize == "square_crop"

    @classmethod
    def from_manifest(cls, spec: Mapping[str, Any]) -> ImageTransform:
        return cls(spec["size"], spec["resize"], spec["resample"], spec["patches"])

    def _square_crop(self, image: Image.Image, shown: tuple[int, int]) -> Image.Image:
        if shown == image.size:
            return self._scale(_center(image, min(image.size)), (self.size, self.size))
        side = min(shown)
        (left, right), (top, bottom) = (
            (
                _offset(length, side) * stored / length,
                (_offset(length, side) + side) * stored / length,
            )
            for length, stored in zip(shown, image.size, strict=True)
        )
        return image.resize((self.size, self.size), self._filter, (left, top, right, bottom))

    def _short_side(self, image: Image.Image, shown: tuple[int, int]) -> Image.Image:
        """Resize the whole image and then crop it. Resizing only a part would change levels by 1:
        Pillow chooses the order of its two passes by the sizes and rounds to bytes between them."""
        width, height = shown
        long = int(self.size * max(width, height) / min(width, height))
        if long > MAX_ASPECT_RATIO * self.size:
            return self._window(image, long, wide=width >= height)
        size = (long, self.size) if width >= height else (self.size, long)
        return _center(self._scale(image, size), self.size)

    def _window(self, image: Image.Image, long: int, *, wide: bool) -> Image.Image:
        """The crop of a very long image, resized from only the part that it covers."""
        width, height = image.size
        length = width if wide else height
        scale = length / long
        start = _offset(long, self.size) * scale
        end = start + self.size * scale
        reach = SUPPORT[self.resample] * max(1.0, scale) + 1
        first, last = max(0, int(start - reach)), min(length, int(end + reach) + 1)
        square = (self.size, self.size)
        if wide:
            part = image.crop((first, 0, last, height))
            return part.resize(square, self._filter, (start - first, 0, end - first, height))
        part = image.crop((0, first, width, last))
        return part.resize(square, self._filter, (0, start - first, width, end - first))

    def _scale(self, image: Image.Image, size: tuple[int, int]) -> Image.Image:
        return image if image.size == size else image.resize(size, self._filter)

    @property
    def _filter(self) -> Image.Resampling:
        return FILTERS[self.resample]


def _center(image: Image.Image, side: int) -> Image.Image:
    """The square of `side` pixels in the center of an image that is at least that large."""
    left, top = _offset(image.width, side), _offset(image.height, side)
    return image.crop((left, top, left + side, top + side))


def _offset(length: int, side: int) -> int:
    """The offset of torchvision's center crop: half to even. (transformers rounds down, which moves
    the crop of a width of 335 by one column.)"""
    return round((length - side) / 2.0)
