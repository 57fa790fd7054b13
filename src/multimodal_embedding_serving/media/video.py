"""The sampled frames of a video, in order, one at a time: memory does not grow with its length.

`read_frames` decodes the frames that `choose` selects. Its arguments are only bytes, a path or a
file descriptor, and numbers, so that it can run in another process.
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
    FrameReader,
    Source,
    check_side,
    survey,
    translate_errors,
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
"""Copies pixels, maybe strided, that live only as long as their frame, to a contiguous array."""


def read_frames(
    source: bytes | Path | int,
    segment: Segment,
    limits: VideoLimits,
    *,
    threads: int = 0,
    place: Place = np.ascontiguousarray,
) -> Generator[Frame, None, None]:
    """Yield the sampled frames in ascending order; closing the generator closes the video.

    `source`: the encoded bytes, a file's path, or the descriptor of an open file. `threads` is the
    number of decoding threads; 0 lets FFmpeg choose. Nothing is decoded after the last sampled
    frame.

    Raises, at the first step, UnsupportedMedia (unknown container), TooLarge (bytes, seconds, side,
    sampled frames), NotFound (no such file), InvalidInput (damaged, or no frame in the segment);
    later also InvalidInput, if a frame can't be decoded.
    """
    source_size(source, limits)
    encoded = Source(source, max_side=limits.max_side)
    video = survey(encoded, limits.max_seconds)
    if video.frames == 0:
        raise InvalidInput("the video contains no frame that can be decoded")
    numbers = choose(segment, video.frames, video.rate)
    if len(numbers) > limits.max_frames:
        raise TooLarge(
            f"the segment selects {len(numbers):,} frames; the limit is {limits.max_frames:,} "
            "(EMBEDDING_MAX_FRAMES)",
            param="segment_config",
        )
    with FrameReader(encoded, video, threads=threads) as reader:
        display = Display()
        for number in numbers:
            frame = reader.frame(number)
            check_side(frame.width, frame.height, limits.max_side)
            with translate_errors():
                pixels = display.pixels(frame)
            yield Frame(number, video.seconds_of(number, frame.pts), place(pixels))


class Display:
    """Rotates and mirrors frames by the video's display matrix, to the nearest quarter turn.

    PyAV's `side_data` keeps its frame in a reference cycle, so reading it for every frame would
    hold them all until the next garbage collection (400 MB for 300 frames): it is read only when
    the rotation changes.
    """

    def __init__(self) -> None:
        self._rotation: int | None = None
        self._matrix = (1.0, 0.0, 0.0, 1.0)

    def pixels(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """uint8 [height, width, 3] RGB: a view of the converted frame."""
        pixels: NDArray[Any] = frame.to_ndarray(format="rgb24", threads=1)
        if frame.rotation != self._rotation:
            self._rotation, self._matrix = frame.rotation, _display_matrix(frame)
        # A point (x, y) is shown at (a x + c y, b x + d y): ISO/IEC 14496-12, 6.2.2.
        a, b, c, d = self._matrix
        if abs(b) + abs(c) > abs(a) + abs(d):
            pixels, a, d = pixels.transpose(1, 0, 2), c, b
        pixels = pixels[:, ::-1] if a < 0 else pixels
        return pixels[::-1] if d < 0 else pixels


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
