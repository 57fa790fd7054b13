"""Converts gray levels of any depth and range to eight bits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def normalize_range(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Map the smallest finite value to 0 and the largest to 255; a constant image is black.

    NaN maps to the smallest. Rows are converted in blocks, so that doubles take 8 MB, not 512.
    """
    if values.dtype.kind in "iu":
        low, high = values.min(), values.max()
    else:
        finite = np.isfinite(values)
        low = values.min(where=finite, initial=np.inf)
        high = values.max(where=finite, initial=-np.inf)
    span = float(high) / 2 - float(low) / 2  # halved, since the full range of a double overflows
    levels = np.zeros(values.shape, dtype=np.uint8)
    if not (span > 0 and math.isfinite(span)):
        return levels
    step = max(1, (1 << 20) // max(1, values[0].size))
    for start in range(0, len(values), step):
        block = values[start : start + step].astype(np.float64)
        np.nan_to_num(block, copy=False, nan=float(low), posinf=float(high), neginf=float(low))
        levels[start : start + step] = np.rint((block / 2 - float(low) / 2) / span * 255)
    return levels
