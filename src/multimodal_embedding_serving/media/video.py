"""The sampled frames of a video, in order, one at a time: memory does not grow with its length.

`read_frames` decodes the frames that `choose` selects. Its arguments are only bytes, a path or a
file descriptor, and numbers, so that it can run in another process.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.errors import TooLarge
from multimodal_embedding_serving.media.container import (
    Source,
    check_side,
    translate_errors,
)
from multimodal_embedding_serving.media.display import Display
from multimodal_embedding_serving.media.reader import FrameReader
from multimodal_embedding_serving.media.sampling import (
    Frame,
    MissingFrame,
    Segment,
    VideoLimits,
    choose,
    source_size,
)
from multimodal_embedding_serving.media.survey import survey

__all__ = ["Frame", "MissingFrame", "Segment", "VideoLimits", "choose", "read_frames"]

DAMAGED = "the frame could not be decoded: the video is damaged here"
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
) -> Generator[Frame | MissingFrame, None, None]:
    """Yield the sampled frames in ascending order; closing the generator closes the video.

    `source`: the encoded bytes, a file's path, or the descriptor of an open file. `threads`: of the
    decoder; 0 lets FFmpeg choose. Nothing is decoded after the last sampled frame.

    Raises, at the first step, UnsupportedMedia (unknown container), TooLarge (bytes, seconds, side,
    sampled frames), NotFound (no such file), InvalidInput (nothing can be decoded, or no frame in
    the segment). A damaged frame is a MissingFrame.
    """
    source_size(source, limits)
    encoded = Source(source, max_side=limits.max_side)
    timeline = survey(encoded, limits.max_seconds)
    with FrameReader(encoded, timeline, threads=threads) as reader:
        numbers = choose(segment, reader.frames, reader.rate)
        if len(numbers) > limits.max_frames:
            raise TooLarge(
                f"the segment selects {len(numbers):,} frames; the limit is {limits.max_frames:,} "
                "(EMBEDDING_MAX_FRAMES)",
                param="segment_config",
            )
        display = Display(reader.pixel_aspect if segment.pixel_aspect == "display" else None)
        for number in numbers:
            seconds, frame = reader.seconds(number), reader.frame(number)
            if frame is None:
                yield MissingFrame(number, seconds, DAMAGED)
                continue
            check_side(frame.width, frame.height, limits.max_side)
            with translate_errors():
                pixels, size = display.show(frame)
            del frame  # `reader` needs its memory
            check_side(*(size or (1, 1)), limits.max_side)
            yield Frame(number, seconds, place(pixels), size)
