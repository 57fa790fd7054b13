"""The pixel pipeline against an independent reference in floats."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from multimodal_embedding_serving.media.image import ImageLimits, decode_rgb
from multimodal_embedding_serving.transforms.image import ImageTransform
from tests.media_files import photo, write_image

Floats = NDArray[np.float64]
Filter = Literal["bilinear", "bicubic"]


def kernel(distance: Floats, name: Filter) -> Floats:
    """Triangle, or Keys' cubic with a = -0.5."""
    x = np.abs(distance)
    if name == "bilinear":
        return np.asarray(np.maximum(0, 1 - x))
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.asarray(np.where(x < 1, near, np.where(x < 2, far, 0)))


def weights(length: int, size: int, name: Filter) -> Floats:
    """[size, length]: the kernel stretched by the scale where it shrinks (antialias)."""
    scale = length / size
    stretch = max(1.0, scale)
    centers = (np.arange(size) + 0.5) * scale
    table = kernel((np.arange(length) + 0.5 - centers[:, None]) / stretch, name)
    return np.asarray(table / table.sum(axis=1, keepdims=True))


def resized(pixels: Floats, height: int, width: int, name: Filter) -> Floats:
    rows = np.einsum("yh,hwc->ywc", weights(pixels.shape[0], height, name), pixels)
    both = np.einsum("xw,ywc->yxc", weights(pixels.shape[1], width, name), rows)
    return np.asarray(np.clip(both, 0, 255))


def cropped(pixels: Floats, side: int) -> Floats:
    """torchvision's offset: half to even."""
    top, left = (int(np.rint((length - side) / 2)) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def reference(image: Image.Image, transform: ImageTransform) -> Floats:
    pixels, size, name = np.asarray(image).astype(float), transform.size, transform.resample
    if transform.resize == "squash":
        return resized(pixels, size, size, name)
    if transform.resize == "square_crop":
        return resized(cropped(pixels, min(image.size)), size, size, name)
    height, width = pixels.shape[:2]
    long = int(size * max(height, width) / min(height, width))
    tall = (long, size) if height > width else (size, long)
    return cropped(resized(pixels, *tall, name), size)


SIZES = [
    (335, 224),
    (224, 335),
    (640, 480),
    (333, 500),
    (31, 17),
    (225, 224),
    (224, 224),
    (97, 613),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("resize", ["squash", "short_side", "square_crop"])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_levels_are_those_of_the_float_reference_within_one(
    size: tuple[int, int],
    resize: Literal["squash", "short_side", "square_crop"],
    resample: Filter,
) -> None:
    image = photo(*size, seed=3)
    transform = ImageTransform(224, resize, resample, 49)
    result = transform(image)
    assert result.shape == (224, 224, 3)
    assert result.dtype == np.uint8
    assert np.abs(result - np.rint(reference(image, transform))).max() <= 1


@pytest.mark.parametrize("size", [(224, 1), (1, 224), (1, 5000), (5000, 1), (1, 1), (3, 4000)])
@pytest.mark.parametrize("resize", ["squash", "short_side", "square_crop"])
def test_slender_images_stay_within_a_level_and_within_bounds(
    size: tuple[int, int], resize: Literal["squash", "short_side", "square_crop"]
) -> None:
    transform = ImageTransform(32, resize, "bicubic", 1)
    image = photo(*size, seed=1)
    result = transform(image)
    assert result.shape == (32, 32, 3)
    if resize != "short_side" or max(size) < 1000:
        assert np.abs(result - np.rint(reference(image, transform))).max() <= 1


def test_the_window_of_a_slender_image_is_its_center() -> None:
    ramp = np.repeat(np.linspace(0, 255, 4001)[None, :, None], 3, axis=2).repeat(2, axis=0)
    image = Image.fromarray(np.rint(ramp).astype(np.uint8))
    transform = ImageTransform(16, "short_side", "bicubic", 1)
    for each in (image, image.transpose(Image.Transpose.TRANSPOSE)):
        assert np.abs(transform(each).astype(int) - 127.5).max() <= 1.5
    noisy = Image.fromarray(np.random.default_rng(0).integers(90, 160, (4, 400, 3), dtype=np.uint8))
    for each in (noisy, noisy.transpose(Image.Transpose.TRANSPOSE)):
        assert np.abs(transform(each) - np.rint(reference(each, transform))).max() <= 1


def test_the_crop_offset_of_335_columns_rounds_half_to_even() -> None:
    columns = np.arange(335, dtype=np.uint16).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(columns[None, :, None], (224, 335, 3)).copy())
    result = ImageTransform(224, "short_side", "bicubic", 49)(image)
    assert result[0, 0, 0] == 56  # (335 - 224) / 2 = 55.5; transformers' floor would start at 55


def test_an_image_of_the_models_size_is_left_alone() -> None:
    image = photo(224, 224)
    for transform in (
        ImageTransform(224, "squash", "bicubic", 49),
        ImageTransform(224, "short_side", "bilinear", 49),
        ImageTransform(224, "square_crop", "bicubic", 49),
    ):
        assert (transform(image) == np.asarray(image)).all()


def test_a_manifest_describes_a_transform() -> None:
    transform = ImageTransform(256, "short_side", "bilinear", 64)
    spec = {"size": 256, "resize": "short_side", "resample": "bilinear", "patches": 64}
    assert ImageTransform.from_manifest(spec) == transform
    assert transform.min_side == 256


@pytest.mark.parametrize("size", [(4000, 3000), (1920, 1080), (2000, 3008)])
def test_a_drafted_jpeg_differs_from_a_full_decode_by_two_levels_at_most(
    size: tuple[int, int],
) -> None:
    limits = ImageLimits(max_bytes=32 << 20, max_pixels=64_000_000, formats=("JPEG",))
    data = write_image("jpeg", photo(*size), quality=92)
    transform = ImageTransform(224, "short_side", "bicubic", 49)
    full = transform(decode_rgb(data, limits)).astype(int)
    drafted = transform(decode_rgb(data, limits, min_side=transform.min_side)).astype(int)
    assert np.abs(full - drafted).max() <= 2
