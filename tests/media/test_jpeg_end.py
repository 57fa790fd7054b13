"""JPEGs without their last bytes: images if only the end marker is missing, else a 422."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from multimodal_embedding_serving.errors import InvalidInput, UnsupportedMedia
from multimodal_embedding_serving.media.image import ImageLimits, decode_rgb
from multimodal_embedding_serving.media.jpeg import has_all_scans
from tests.media_files import photo, write_oriented

LIMITS = ImageLimits(max_bytes=8 << 20, max_pixels=10**7, formats=("JPEG",))
OPTIONS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "best": {"quality": 100, "subsampling": 0},
    "restarts": {"restart_marker_rows": 1},
    "optimized": {"optimize": True},
}
MODES = ("RGB", "L", "CMYK")


def noisy(width: int, height: int, seed: int = 0) -> Image.Image:
    """A photo with noise: its last block has coefficients that a truncated file lacks."""
    noise = np.random.default_rng(seed).normal(0, 12, (height, width, 3))
    levels = np.asarray(photo(width, height, seed)) + noise
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, kind: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    image.convert(mode).save(out, "JPEG", **OPTIONS[kind])
    assert out.getvalue().endswith(b"\xff\xd9")
    return out.getvalue()


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", OPTIONS)
def test_a_jpeg_that_lacks_only_its_end_marker_is_the_same_image(
    kind: str, mode: str, cut: int
) -> None:
    data = jpeg(noisy(75, 51), kind, mode)
    for min_side in (0, 8):
        expected = np.asarray(decode_rgb(data, LIMITS, min_side=min_side))
        result = np.asarray(decode_rgb(data[:-cut], LIMITS, min_side=min_side))
        assert np.array_equal(result, expected)


@settings(max_examples=100, deadline=None)
@example(kind="restarts", mode="RGB", size=(33, 33), seed=598, cut=7)  # one pixel shows it
@given(
    kind=st.sampled_from(sorted(OPTIONS)),
    mode=st.sampled_from(MODES),
    size=st.tuples(st.integers(8, 64), st.integers(8, 64)),
    seed=st.integers(0, 1000),
    cut=st.one_of(st.integers(3, 12), st.integers(3, 2000)),
)
def test_a_truncated_jpeg_is_never_another_image(
    kind: str, mode: str, size: tuple[int, int], seed: int, cut: int
) -> None:
    data = jpeg(noisy(*size, seed), kind, mode)
    try:
        result = np.asarray(decode_rgb(data[:-cut], LIMITS))
    except (InvalidInput, UnsupportedMedia):  # nothing is left of a small file
        return
    assert np.array_equal(result, np.asarray(decode_rgb(data, LIMITS)))


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_truncated_jpeg_is_a_422(kind: str, share: float) -> None:
    data = jpeg(noisy(160, 120), kind)
    with pytest.raises(InvalidInput, match="incomplete"):
        decode_rgb(data[: int(share * len(data))], LIMITS)


@pytest.mark.parametrize("mode", MODES)
def test_a_jpeg_that_ends_before_a_restart_marker_is_a_422(mode: str) -> None:
    data = jpeg(noisy(64, 64), "restarts", mode)
    markers = [at for at in range(len(data)) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]
    assert len(markers) >= 3
    for place in markers:
        with pytest.raises(InvalidInput, match="incomplete"):
            decode_rgb(data[:place], LIMITS)


def test_a_progressive_jpeg_that_ends_between_two_scans_is_a_422() -> None:
    data = jpeg(noisy(64, 48), "progressive")
    scans = [place for place in range(len(data)) if data[place : place + 2] == b"\xff\xda"]
    assert len(scans) > 3
    assert has_all_scans(data)
    for place in scans[1:]:
        tables = data.rfind(b"\xff\xc4", 0, place)  # each scan has Huffman tables of its own
        assert not has_all_scans(data[:tables])
        with pytest.raises(InvalidInput):
            decode_rgb(data[:tables], LIMITS)


def test_an_unterminated_jpeg_is_turned_and_scaled_like_any_other() -> None:
    data = write_oriented(photo(1600, 800), 6)[:-2]
    assert decode_rgb(data, LIMITS, min_side=100).size == (200, 400)
