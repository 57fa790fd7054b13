"""Vectors as bytes of an answer, straight from their memory: never lists of Python floats."""

from __future__ import annotations

import asyncio
import binascii
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from multimodal_embedding_serving.types import Vector, Vectors

Encoding = Literal["float", "base64"]

OCTETS, NPY = "application/octet-stream", "application/x-npy"

SMALL = 64 * 2**10
"""Numbers that are encoded on the event loop: under a millisecond."""


def encode(vector: Vector, encoding: Encoding) -> orjson.Fragment:
    """One vector as JSON: numbers, or base64 of little-endian float32."""
    row = np.ascontiguousarray(vector, "<f4")
    if encoding == "base64":
        return orjson.Fragment(b'"' + binascii.b2a_base64(row.data, newline=False) + b'"')
    return orjson.Fragment(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY))


async def answer_vectors(
    request: Request,
    vectors: Sequence[Vectors],
    body: Callable[[], Any],
    headers: Mapping[str, str],
) -> Response:
    """Answer in the form that `Accept` asks for: JSON made by `body()`, raw rows, or .npy.

    Large answers are encoded on a thread.
    """
    if sum(each.size for each in vectors) <= SMALL:
        return _render(request.headers.get("accept", ""), vectors, body, headers)
    accept = request.headers.get("accept", "")
    return await asyncio.to_thread(_render, accept, vectors, body, headers)


def _render(
    accept: str, vectors: Sequence[Vectors], body: Callable[[], Any], headers: Mapping[str, str]
) -> Response:
    if OCTETS not in accept and NPY not in accept:
        return Response(orjson.dumps(body()), 200, dict(headers), "application/json")
    rows = np.ascontiguousarray(np.concatenate(vectors), "<f4")
    named = {**headers, "x-embedding-shape": f"{rows.shape[0]},{rows.shape[1]}"}
    if OCTETS in accept:
        return Response(rows.tobytes(), 200, {**named, "x-embedding-dtype": "<f4"}, OCTETS)
    file = io.BytesIO()
    np.save(file, rows)
    return Response(file.getvalue(), 200, named, NPY)
