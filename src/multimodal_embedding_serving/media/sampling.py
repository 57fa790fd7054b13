"""Which frames of a video are sampled: pure arithmetic over a frame count and a rate.

Nothing here decodes: the service uses these types, and only the decoder process loads FFmpeg.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.errors import InvalidInput, NotFound, TooLarge


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Which frames to take. Priority: frame_indexes, then extraction_fps, then num_frames."""

    start_offset: float = 0
    """Seconds."""
    clip_duration: float = -1
    """Seconds; negative: to the end."""
    num_frames: int = 64
    """Evenly spaced; 0: all."""
    extraction_fps: float | None = None
    """Frames per second of video."""
    frame_indexes: tuple[int, ...] | None = None
    """Absolute frame numbers; those outside the segment are dropped."""
    pooling: Literal["mean"] | None = None
    pixel_aspect: Literal["display", "stored"] = "display"
    """Whether frames of pixels that are not square are embedded as displayed or as stored."""

    def config(self) -> dict[str, Any]:
        """The same as the API's segment_config."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values["startOffsetSec"] = values.pop("start_offset")
        values["clip_duration"] = max(-1, self.clip_duration)
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in values.items()
            if value is not None
        }


@dataclass(frozen=True, slots=True)
class Frame:
    index: int
    """Frame number in presentation order, from 0."""
    timestamp: float
    """Seconds after the first frame."""
    rgb: NDArray[np.uint8]
    """[height, width, 3], after the video's rotation."""
    size: tuple[int, int] | None = None
    """Width and height as displayed; None: as stored."""


@dataclass(frozen=True, slots=True)
class MissingFrame:
    """A sampled frame that can't be decoded."""

    index: int
    timestamp: float
    error: str


@dataclass(frozen=True, slots=True)
class DisplayedFrame:
    """Pixels that are not square: uint8 [height, width, 3], shown at `size` (width, height)."""

    rgb: NDArray[np.uint8]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLimits:
    max_bytes: int
    max_seconds: float
    max_frames: int
    """Sampled frames."""
    max_side: int = 8192


MAX_STEPS_PER_FRAME = 8
"""Up to this many, the steps are counted one by one, with the same rounding as the contract."""


def choose(segment: Segment, frames: int, rate: float) -> list[int]:
    """The numbers of the sampled frames, ascending, without duplicates.

    `frames` is the number of frames, `rate` their average per second. Raises InvalidInput, with the
    video's length, if the segment contains no frame or one of its numbers is not valid.
    """
    check_segment(segment)
    length = f"the video has {frames} frames ({frames / rate:.2f} s)"
    start = _whole(rate * segment.start_offset, frames)
    end = frames
    if segment.clip_duration >= 0:
        end = min(frames, start + _whole(rate * segment.clip_duration, frames))
    if start >= frames:
        problem = f"startOffsetSec {segment.start_offset:g} is beyond the end"
        raise InvalidInput(f"{problem}: {length}", param="segment_config")
    if start >= end:
        problem = f"clip_duration {segment.clip_duration:g} contains no frame"
        raise InvalidInput(f"{problem}: {length}", param="segment_config")
    if segment.frame_indexes:
        inside = sorted({index for index in segment.frame_indexes if start <= index < end})
        if inside:
            return inside
    elif segment.extraction_fps:
        return _paced(start, end, rate, segment.extraction_fps)
    return _spread(start, end, segment.num_frames)


def check_segment(segment: Segment) -> None:
    for name, value, minimum in (
        ("startOffsetSec", segment.start_offset, 0.0),
        ("clip_duration", segment.clip_duration, -math.inf),
        ("num_frames", segment.num_frames, 0),
        ("extraction_fps", segment.extraction_fps or 0.0, 0.0),
    ):
        if math.isnan(value) or value < minimum:
            accepted = "a number" if math.isinf(minimum) else f"a number of at least {minimum:g}"
            raise InvalidInput(f"{name} must be {accepted}, not {value:g}", param="segment_config")


def _whole(value: float, frames: int) -> int:
    """int(value), or frames + 1 for anything beyond the end (infinity too)."""
    return int(value) if value <= frames else frames + 1


def _paced(start: int, end: int, rate: float, fps: float) -> list[int]:
    if fps > MAX_STEPS_PER_FRAME * rate:  # steps of a fraction of a frame hit every frame
        return list(range(start, end))
    numbers = [start]
    step = 1
    while (place := start + step * rate / fps) < end:
        if int(place) > numbers[-1]:
            numbers.append(int(place))
        step += 1
    return numbers


def _spread(start: int, end: int, count: int) -> list[int]:
    if count == 0 or count >= end - start:  # steps of at most one frame hit every frame
        return list(range(start, end))
    places = np.linspace(start, end, count, endpoint=False).astype(np.int64)
    return [int(place) for place in np.unique(places)]


def source_size(source: bytes | Path | int, limits: VideoLimits) -> int:
    """Size of an encoded video in bytes. Raises NotFound, InvalidInput (empty), TooLarge."""
    try:
        if isinstance(source, bytes):
            size = len(source)
        else:
            size = (source.stat() if isinstance(source, Path) else os.fstat(source)).st_size
    except OSError:
        raise NotFound("the video file does not exist") from None
    if size == 0:
        raise InvalidInput("the video is empty")
    if size > limits.max_bytes:
        raise TooLarge(
            f"the video has {size:,} bytes; the limit is {limits.max_bytes:,} "
            "(EMBEDDING_MAX_VIDEO_MB)"
        )
    return size
