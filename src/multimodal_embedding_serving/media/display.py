"""What a decoder returns -> what a player shows: RGB, upright, with the pixels' aspect."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from numpy.typing import NDArray

MAX_PIXEL_ASPECT = 8
"""A pixel that is wider or narrower than this ratio counts as square."""
UNSPECIFIED, BT709, BT2020 = 2, 1, 9
NEAREST_MATRICES = {
    3: UNSPECIFIED,  # reserved
    8: BT709,  # YCgCo
    10: BT2020,  # BT.2020 with constant luminance
    11: BT2020,  # SMPTE 2085
    12: BT709,  # derived from the primaries
    13: BT709,  # the same with constant luminance
    14: BT2020,  # ICtCp
    15: BT2020,  # IPT-C2
    16: BT709,  # YCgCo-R, even
    17: BT709,  # YCgCo-R, odd
}
"""Color matrices (ITU-T H.273) that FFmpeg's scaler rejects, and the one that each is read as."""


class Display:
    """Converts frames to RGB; rotates and mirrors them by the video's display matrix, to the
    nearest quarter turn; and tells the size at which pixels that are not square are shown.

    PyAV's `side_data` keeps its frame in a reference cycle, so reading it for every frame would
    hold them all until the next garbage collection (400 MB for 300 frames): it is read only when
    the rotation changes, and never of a frame whose memory the decoder uses again.
    """

    def __init__(self, pixel_aspect: Fraction | None = None) -> None:
        """`pixel_aspect`: the width of a stored pixel, if its height is 1; None: not applied."""
        valid = (
            pixel_aspect is not None and 1 / MAX_PIXEL_ASPECT <= pixel_aspect <= MAX_PIXEL_ASPECT
        )
        self._aspect = pixel_aspect if pixel_aspect is not None and valid else Fraction(1)
        self._rotation: int | None = None
        self._matrix = (1.0, 0.0, 0.0, 1.0)

    def show(self, frame: VideoFrame) -> tuple[NDArray[np.uint8], tuple[int, int] | None]:
        """uint8 [height, width, 3] RGB, a view of the converted frame; and the width and height at
        which it is shown, or None if that is its size."""
        frame.colorspace = NEAREST_MATRICES.get(frame.colorspace, frame.colorspace)
        rgb = frame.reformat(format="rgb24", threads=1)
        pixels: NDArray[Any] = rgb.to_ndarray()
        if rgb.rotation != self._rotation:
            self._rotation, self._matrix = rgb.rotation, _display_matrix(rgb)
        # A point (x, y) is shown at (a x + c y, b x + d y): ISO/IEC 14496-12, 6.2.2.
        a, b, c, d = self._matrix
        size = max(1, round(frame.width * self._aspect)), frame.height
        if abs(b) + abs(c) > abs(a) + abs(d):
            pixels, a, d = pixels.transpose(1, 0, 2), c, b
            size = size[::-1]
        pixels = pixels[:, ::-1] if a < 0 else pixels
        pixels = pixels[::-1] if d < 0 else pixels
        return pixels, None if size == pixels.shape[1::-1] else size


def _display_matrix(frame: VideoFrame) -> tuple[float, float, float, float]:
    try:
        side_data: Any = frame.side_data  # PyAV types it as a dict, which it is not
        matrix = np.frombuffer(bytes(side_data[Type.DISPLAYMATRIX]), dtype=np.int32, count=5)
    except KeyError:
        return (1.0, 0.0, 0.0, 1.0)
    except ValueError:  # other side data is of a type that PyAV does not know
        turn = math.radians(frame.rotation)
        return (math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn))
    a, b, _, c, d = matrix.tolist()
    return (a, b, c, d)
