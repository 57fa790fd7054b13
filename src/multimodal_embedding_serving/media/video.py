"""A video's sampled frames, in order, one at a time: memory does not grow with its length.

`choose` is the sampling contract, pure arithmetic over a frame count and a rate; `read_frames`
decodes what it chose. The generator owns nothing but bytes, a path and numbers, so that it can run
in another process.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from multimodal_embedding_serving.errors import InvalidInput, NotFound, TooLarge
from multimodal_embedding_serving.media.footage import (
    Footage,
    Source,
    check_side,
    survey,
    told_apart,
)


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
    """Frames for each second of video."""
    frame_indexes: tuple[int, ...] | None = None
    """Absolute numbers; those outside the segment are dropped."""
    pooling: Literal["mean"] | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    index: int
    """Its place among the video's frames in presentation order, from 0."""
    timestamp: float
    """Seconds after the first frame."""
    rgb: NDArray[np.uint8]
    """[height, width, 3], turned as the video's rotation says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLimits:
    max_bytes: int
    max_seconds: float
    max_frames: int
    """Sampled frames."""
    max_side: int = 8192


FINE = 8
"""Steps per frame up to which the contract's steps are counted out, roundings and all."""


def choose(segment: Segment, frames: int, rate: float) -> list[int]:
    """The numbers of the sampled frames, ascending, without duplicates.

    `frames` is the video's count, `rate` its average frames a second. Raises InvalidInput, saying
    the video's length, where the segment holds no frame or a number makes no sense.
    """
    _check(segment)
    length = f"the video has {frames} frames ({frames / rate:.2f} s)"
    start = _whole(rate * segment.start_offset, frames)
    end = frames
    if segment.clip_duration >= 0:
        end = min(frames, start + _whole(rate * segment.clip_duration, frames))
    if start >= frames:
        where = f"startOffsetSec {segment.start_offset:g} lies beyond the end"
        raise InvalidInput(f"{where}: {length}", param="segment_config")
    if start >= end:
        where = f"clip_duration {segment.clip_duration:g} s holds no frame"
        raise InvalidInput(f"{where}: {length}", param="segment_config")
    if segment.frame_indexes:
        inside = sorted({index for index in segment.frame_indexes if start <= index < end})
        if inside:
            return inside
    elif segment.extraction_fps:
        return _paced(start, end, rate, segment.extraction_fps)
    return _spread(start, end, segment.num_frames)


def _check(segment: Segment) -> None:
    for name, value, least in (
        ("startOffsetSec", segment.start_offset, 0.0),
        ("clip_duration", segment.clip_duration, -math.inf),
        ("num_frames", segment.num_frames, 0),
        ("extraction_fps", segment.extraction_fps or 0.0, 0.0),
    ):
        if math.isnan(value) or value < least:
            raise InvalidInput(f"{name} must be a number >= {least:g}", param="segment_config")


def _whole(value: float, most: int) -> int:
    """int(value), where anything beyond the video's end, infinity too, is just beyond it."""
    return int(value) if value <= most else most + 1


def _paced(start: int, end: int, rate: float, fps: float) -> list[int]:
    if fps > FINE * rate:  # steps of a fraction of a frame hit every frame
        return list(range(start, end))
    chosen = [start]
    step = 1
    while (place := start + step * rate / fps) < end:
        if int(place) > chosen[-1]:
            chosen.append(int(place))
        step += 1
    return chosen


def _spread(start: int, end: int, count: int) -> list[int]:
    if count == 0 or count >= end - start:  # steps of at most one frame hit every frame
        return list(range(start, end))
    places = np.linspace(start, end, count, endpoint=False).astype(np.int64)
    return [int(place) for place in np.unique(places)]


def read_frames(
    source: bytes | Path, segment: Segment, limits: VideoLimits, *, threads: int = 0
) -> Generator[Frame, None, None]:
    """Yield the sampled frames in ascending order; closing the generator closes the video.

    `threads` decode; 0 lets FFmpeg choose. Nothing is decoded after the last sampled frame.

    Raises, at the first step, UnrecognisedMedia (no known container), TooLarge (bytes, seconds,
    side, sampled frames), NotFound (no such file), InvalidInput (damaged, or a segment without
    frames); InvalidInput also later, where a frame can't be decoded.
    """
    _check_bytes(source, limits)
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
                rgb = display.pixels(frame)
            yield Frame(number, found.seconds_of(number, frame.pts), rgb)


def _check_bytes(source: bytes | Path, limits: VideoLimits) -> None:
    try:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
    except OSError:
        raise NotFound("the video file does not exist") from None
    if size == 0:
        raise InvalidInput("the video is empty")
    if size > limits.max_bytes:
        raise TooLarge(f"the video has {size:,} bytes; the limit is {limits.max_bytes:,} bytes")


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
        """uint8 [height, width, 3] RGB."""
        found: NDArray[Any] = frame.to_ndarray(format="rgb24", threads=1)
        if frame.rotation != self._rotation:
            self._rotation, self._matrix = frame.rotation, _display_matrix(frame)
        # A point (x, y) is shown at (a x + c y, b x + d y): ISO/IEC 14496-12, 6.2.2.
        a, b, c, d = self._matrix
        if abs(b) + abs(c) > abs(a) + abs(d):
            found, a, d = found.transpose(1, 0, 2), c, b
        found = found[:, ::-1] if a < 0 else found
        found = found[::-1] if d < 0 else found
        return np.ascontiguousarray(found)


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
