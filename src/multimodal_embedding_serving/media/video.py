"""A video's sampled frames, in order, one at a time: memory does not grow with its length.

`read_frames` decodes what `choose` chose. The generator owns nothing but bytes, a path or a file
descriptor, and numbers, so that it can run in another process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from multimodal_embedding_serving.errors import InvalidInput, TooLarge
from multimodal_embedding_serving.media.container import (
    Footage,
    Source,
    check_side,
    survey,
    told_apart,
)
from multimodal_embedding_serving.media.sampling import (
    Frame,
    Segment,
    VideoLimits,
    choose,
    source_size,
)

__all__ = ["Frame", "Segment", "VideoLimits", "choose", "read_frames"]

Pixels = NDArray[np.uint8]
Place = Callable[[Pixels], Pixels]
"""Takes a picture, maybe strided, that is gone with its frame -> a contiguous one that lasts."""


def read_frames(
    source: bytes | Path | int,
    segment: Segment,
    limits: VideoLimits,
    *,
    threads: int = 0,
    place: Place = np.ascontiguousarray,
) -> Generator[Frame, None, None]:
    """Yield the sampled frames in ascending order; closing the generator closes the video.

    `source`: the encoded bytes, a file's path, or the descriptor of an open file. `threads` decode;
    0 lets FFmpeg choose. Nothing is decoded after the last sampled frame.

    Raises, at the first step, UnsupportedMedia (no known container), TooLarge (bytes, seconds,
    side, sampled frames), NotFound (no such file), InvalidInput (damaged, or a segment without
    frames); InvalidInput also later, where a frame can't be decoded.
    """
    source_size(source, limits)
    opened = Source(source, max_side=limits.max_side)
    found = survey(opened, limits.max_seconds)
    if found.frames == 0:
        raise InvalidInput("the video holds no frame that can be decoded")
    chosen = choose(segment, found.frames, found.rate)
    if len(chosen) > limits.max_frames:
        raise TooLarge(
            f"{len(chosen):,} frames are asked for; the limit is {limits.max_frames:,}",
            param="segment_config",
        )
    with Footage(opened, found, threads=threads) as footage:
        display = Display()
        for number in chosen:
            frame = footage.frame(number)
            check_side(frame.width, frame.height, limits.max_side)
            with told_apart():
                pixels = display.pixels(frame)
            yield Frame(number, found.seconds_of(number, frame.pts), place(pixels))


class Display:
    """Turns and mirrors frames as the video's display matrix says, to the nearest quarter turn.

    PyAV's `side_data` holds its frame in a reference cycle, so that each frame asked for it would
    linger until the cycles are collected (400 MB for 300 frames): it is asked only where the
    rotation changes.
    """

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._matrix = (1.0, 0.0, 0.0, 1.0)

    def pixels(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """uint8 [height, width, 3] RGB: a view of the converted frame."""
        found: NDArray[Any] = frame.to_ndarray(format="rgb24", threads=1)
        if frame.rotation != self._rotation:
            self._rotation, self._matrix = frame.rotation, _display_matrix(frame)
        # A point (x, y) is shown at (a x + c y, b x + d y): ISO/IEC 14496-12, 6.2.2.
        a, b, c, d = self._matrix
        if abs(b) + abs(c) > abs(a) + abs(d):
            found, a, d = found.transpose(1, 0, 2), c, b
        found = found[:, ::-1] if a < 0 else found
        return found[::-1] if d < 0 else found


def _display_matrix(frame: VideoFrame) -> tuple[float, float, float, float]:
    try:
        side_data: Any = frame.side_data  # typed by PyAV as a dict, which it is not
        matrix = np.frombuffer(bytes(side_data[Type.DISPLAYMATRIX]), dtype=np.int32, count=5)
    except KeyError:
        return (1.0, 0.0, 0.0, 1.0)
    except ValueError:  # some other side data is of a kind that PyAV does not know
        turn = math.radians(frame.rotation)
        return (math.cos(turn), -math.sin(turn), math.sin(turn), math.cos(turn))
    a, b, _, c, d = matrix.tolist()
    return (a, b, c, d)
