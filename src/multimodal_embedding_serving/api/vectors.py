"""Vectors as bytes of a response, straight from their memory: never lists of Python floats."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import orjson
import pybase64
from numpy.typing import NDArray
from starlette.responses import Response

from multimodal_embedding_serving.types import Vector, Vectors

Encoding = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
"""Cohere's names. Each vector is quantized on its own: int8 scales it so that its component of the
largest magnitude is 127 or -127, which preserves its direction (compare by cosine); uint8 is int8
plus 128. ubinary has one bit per component, 1 if it is positive, the first in the highest bit of a
byte; binary is ubinary minus 128."""

OutputType = Literal["float", "int8", "uint8", "binary", "ubinary"]
"""Voyage's names: what a number is, while another option says whether it is sent as base64."""

FINGERPRINT = "x-embedding-fingerprint"
"""Vectors with equal fingerprints are comparable."""
SHAPE = "x-embedding-shape"
"""Rows and columns of a response that is not JSON."""
OCTETS, NPY = "application/octet-stream", "application/x-npy"

MAX_INLINE_NUMBERS = 64 * 2**10
"""More are encoded on a thread; these block the event loop for less than a millisecond."""


def encode(vector: Vector, encoding: Encoding) -> orjson.Fragment:
    """One vector as JSON: numbers, or base64 of little-endian float32."""
    row: NDArray[Any] = np.ascontiguousarray(vector, "<f4")
    if encoding == "base64":
        return orjson.Fragment(b'"' + pybase64.b64encode(row.data) + b'"')
    if encoding != "float":
        row = quantize(vector, encoding)
    return orjson.Fragment(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY))


def encode_as(vector: Vector, numbers: OutputType, *, packed: bool) -> orjson.Fragment:
    """One vector as JSON: float32, int8 or uint8, as a list or as base64 of the bytes."""
    if not packed:
        return encode(vector, numbers)
    if numbers == "float":
        return encode(vector, "base64")
    return orjson.Fragment(b'"' + pybase64.b64encode(quantize(vector, numbers).tobytes()) + b'"')


def quantize(vector: Vector, kind: Encoding) -> NDArray[Any]:
    """A vector as int8 or uint8 [dimension], or as binary or ubinary [dimension / 8]."""
    if kind in ("binary", "ubinary"):
        bits: NDArray[np.uint8] = np.packbits(vector > 0)
        return bits if kind == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    largest = float(np.abs(vector).max()) or 1.0
    levels: NDArray[np.int16] = np.rint(vector / largest * 127).astype(np.int16)
    return levels.astype(np.int8) if kind == "int8" else (levels + 128).astype(np.uint8)


def raw_response(
    accept: str, vectors: Sequence[Vectors], headers: Mapping[str, str]
) -> Response | None:
    """Raw rows or .npy if `Accept` asks for them; None if the response is to be JSON."""
    if OCTETS not in accept and NPY not in accept:
        return None
    rows = np.ascontiguousarray(np.concatenate(vectors), "<f4")
    headers = {**headers, SHAPE: f"{rows.shape[0]},{rows.shape[1]}"}
    if OCTETS in accept:
        return Response(rows.tobytes(), 200, {**headers, "x-embedding-dtype": "<f4"}, OCTETS)
    file = io.BytesIO()
    np.save(file, rows)
    return Response(file.getvalue(), 200, headers, NPY)
