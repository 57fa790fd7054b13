"""Arrays as images: one rule, which the engine's decoder and the HTTP client share."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from multimodal_embedding_serving.client.protocol import media_item
from multimodal_embedding_serving.errors import InvalidInput
from multimodal_embedding_serving.image_arrays import to_uint8
from multimodal_embedding_serving.media.image import ImageLimits, decode_rgb

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=10**6, formats=("PNG",))
DTYPES = "? u1 i1 <u2 >u2 i2 u4 i4 u8 i8 <f2 >f4 f4 f8 g c8 U3 O M8[s]".split()
Levels = NDArray[np.uint8]


def by_engine(array: NDArray[Any]) -> Levels | str:
    try:
        return np.asarray(decode_rgb(array, LIMITS))
    except InvalidInput as error:
        return error.message


def by_client(array: NDArray[Any]) -> Levels | str:
    """What the server decodes from the client's request."""
    try:
        kind, encoded = media_item("image", array)
    except InvalidInput as error:
        return error.message
    assert kind == "image_base64"
    return np.asarray(decode_rgb(base64.b64decode(encoded), LIMITS))


def image_array(dtype: str, shape: tuple[int, ...], low: float, high: float) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        values = np.linspace(low, high, int(np.prod(shape))).reshape(shape)
    if np.dtype(dtype).kind in "u?":
        values = np.abs(values) * (255 if np.dtype(dtype).itemsize == 1 else 65535)
    with np.errstate(all="ignore"):
        return values.astype("i8").astype(dtype) if dtype[0] == "M" else values.astype(dtype)


SIDES = st.integers(0, 6)
SHAPES = st.one_of(
    st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES, SIDES), st.tuples(SIDES),
    st.tuples(SIDES, SIDES, SIDES, st.just(3)),
)  # fmt: skip
LOW = st.sampled_from([0.0, 0.0, 0.25, -0.1, -1.0, float("nan"), float("-inf")])
HIGH = st.sampled_from([1.0, 1.0, 0.5, 1.01, 255.0, float("inf")])


@settings(max_examples=400, deadline=None)
@given(dtype=st.sampled_from(DTYPES), shape=SHAPES, low=LOW, high=HIGH, view=st.booleans())
def test_engine_and_client_take_and_refuse_the_same_arrays(
    dtype: str, shape: tuple[int, ...], low: float, high: float, view: bool
) -> None:
    array = image_array(dtype, shape, low, high)
    if view:
        array = array[::-1]
    engine, client = by_engine(array), by_client(array)
    if isinstance(engine, str) or isinstance(client, str):
        assert engine == client
    else:
        assert np.array_equal(engine, client)


@settings(max_examples=200, deadline=None)
@given(
    dtype=st.sampled_from(["f2", "f4", "f8", ">f4"]),
    channels=st.sampled_from([None, 1, 3, 4]),
    values=st.lists(st.floats(0, 1), min_size=12, max_size=12),
)
def test_floats_within_0_and_1_are_scaled_by_255(
    dtype: str, channels: int | None, values: list[float]
) -> None:
    shape = (3, 4 // (channels or 1), channels) if channels in (1, 4) else (2, 2, 3)
    array = np.array(values).astype(dtype).reshape(shape if channels else (3, 4))
    expected = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    if array.ndim == 3:
        expected = expected[..., 0] if channels == 1 else expected[..., :3]
    assert np.array_equal(to_uint8(array), expected)


def test_integers_and_booleans_have_their_full_scale() -> None:
    deep = np.arange(0, 65536, 7, dtype=np.uint16)[None]
    assert np.array_equal(to_uint8(deep), deep >> 8)
    assert np.array_equal(to_uint8(deep.astype(">u2")), deep >> 8)
    assert to_uint8(np.array([[False, True]])).tolist() == [[0, 255]]
    shallow = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(to_uint8(shallow), shallow)


def test_a_foggy_image_stays_foggy() -> None:
    """Its contrast is part of the image: it is not stretched."""
    foggy = np.linspace(0.4, 0.6, 12, dtype=np.float32).reshape(3, 4)
    assert to_uint8(foggy).min() == 102
    assert to_uint8(foggy).max() == 153


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2), 3, np.int32), "int32 with minimum 3 and maximum 3"),
        (np.array([[0.0, 255.0]]), "float64 with minimum 0 and maximum 255"),
        (np.array([[-0.5, 1.0]], np.float16), "float16 with minimum -0.5 and maximum 1"),
        (np.array([[0.0, np.nan]], np.float32), "float32 with minimum 0 and maximum 0 and NaN"),
        (np.full((2, 2), np.nan), "float64 and all its values are NaN"),
        (np.array([[0.0, np.inf]]), "maximum inf"),
        (np.zeros((2, 2), np.complex64), "complex64 and holds no real numbers"),
        (np.zeros((2, 2), np.longdouble), "longdouble|float128"),
        (np.zeros((4, 4, 2), np.uint8), r"not \[4, 4, 2\]; for gray with alpha"),
        (np.zeros((3, 8, 8), np.uint8), r"not \[3, 8, 8\]; are its channels first"),
        (np.zeros((5, 8, 8, 3), np.uint8), r"for a batch of images, use list\(array\)"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (np.ma.masked_array(np.zeros((2, 2), np.uint8), mask=True), "masked"),
    ],
)  # fmt: skip
def test_any_other_array_is_refused_with_its_type_and_range(
    array: NDArray[Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        to_uint8(array)
    assert isinstance(by_engine(array), str)
    assert by_engine(array) == by_client(array)
