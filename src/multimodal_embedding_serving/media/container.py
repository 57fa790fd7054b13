"""A video as numbered frames: how many there are, and any of them, in ascending order.

A frame's number is its place in presentation order. Containers declare a wrong frame count or none,
so the packets are counted (20 ms per minute of 720p; nothing is decoded). Frames are numbered by
decoding in sequence. A seek skips frames that are not needed, and is used only if the decoder then
returns exactly the frame that the count predicted.
"""

from __future__ import annotations

import contextlib
import io
import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from multimodal_embedding_serving.errors import InvalidInput, TooLarge, UnsupportedMedia

SIGNATURES = (
    ("matroska", 0, b"\x1a\x45\xdf\xa3"),
    ("avi", 8, b"AVI "),
    ("flv", 0, b"FLV\x01"),
    ("ogg", 0, b"OggS"),
    ("mpeg", 0, b"\0\0\1\xba"),
    ("asf", 0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
    ("gif", 0, b"GIF8"),
    *(("mov", 4, box) for box in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")),
)
"""Demuxer, offset and bytes. FFmpeg is given the demuxer and probes for none, so playlists (HLS,
concat, DASH), which read other files, can't be reached."""
FORMATS = "MP4, MOV, Matroska, WebM, AVI, FLV, Ogg, MPEG-PS, MPEG-TS, ASF, GIF"
STILL_IMAGE_BRANDS = (b"avif", b"heic", b"heix", b"mif1")
"""`ftyp` brands of still images."""
TS_PACKET = 188

PYAV_ERRORS = (
    av.FFmpegError, OSError, ValueError, LookupError, RuntimeError, ArithmeticError, MemoryError,
    AssertionError, EOFError,
)  # fmt: skip
"""What PyAV raises on bad bytes; their texts may contain file names and never leave this file."""

MIN_SEEK_FRAMES = 12
"""Frames that a seek must skip; for fewer, decoding on is cheaper than refilling the decoder."""
DEFAULT_FRAME_RATE = 25.0
MAX_FRAME_BYTES = 1400 << 20
"""Memory for decoded frames, of the 2 GB that the decoder process may use."""
MAX_REFERENCE_FRAMES = 8
"""Frames that a decoder keeps besides one per thread: at 8K, at most six (H.264, A.3)."""
MAX_FRAME_RATE = 240
"""Frames per second; `max_seconds` times this limits the frame count of a hostile file."""


@dataclass(slots=True)
class Survey:
    """What one pass over the packets yields, without decoding."""

    frames: int = 0
    rate: float = DEFAULT_FRAME_RATE
    seconds: float = 0.0
    """From the first frame's presentation time to the last one's."""
    first: int = 0
    """The first presentation time, in units."""
    unit: float = 1.0
    """Seconds: the stream's time base (a frame loses its own when the decoder is drained)."""
    key_numbers: array[int] = field(default_factory=lambda: array("q"))
    key_times: array[int] = field(default_factory=lambda: array("q"))
    """Where decoding can start, at least MIN_SEEK_FRAMES apart; empty if times are out of order."""

    def seconds_of(self, number: int, time: int | None) -> float:
        """Seconds after the first frame, from the presentation time if the frame has one."""
        return number / self.rate if time is None else (time - self.first) * self.unit

    def key_before(self, number: int) -> tuple[int, int] | None:
        """Number and time of the last known key frame at or before `number`."""
        place = bisect_right(self.key_numbers, number) - 1
        return None if place < 0 else (self.key_numbers[place], self.key_times[place])


class Source:
    """An encoded video in memory, on disk or in an open file. It can be opened repeatedly, but only
    once at a time."""

    def __init__(self, data: bytes | Path | int, *, max_side: int) -> None:
        self._data = data
        self.max_side = max_side

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._file())
            demuxer = recognize(file.read(3 * TS_PACKET))
            if demuxer is None:
                raise UnsupportedMedia(f"not a supported video format (supported: {FORMATS})")
            file.seek(0)
            with translate_errors():
                container = stack.enter_context(self._container(file, demuxer))
                stream = _video_stream(container, self.max_side)
            yield container, stream

    def _file(self) -> IO[bytes]:
        if isinstance(self._data, bytes):
            return io.BytesIO(self._data)
        if isinstance(self._data, Path):
            return self._data.open("rb")
        os.lseek(self._data, 0, os.SEEK_SET)
        return os.fdopen(self._data, "rb", closefd=False)

    def _container(self, file: Any, demuxer: str) -> InputContainer:
        options = {"protocol_whitelist": "file,pipe", **self.decoder_options}
        container: InputContainer = av.open(
            file, "r", format=demuxer, options=options, io_open=_reject_file, buffer_size=1 << 18
        )
        return container

    @property
    def decoder_options(self) -> dict[str, str]:
        return {"max_pixels": str(self.max_side**2)}


def recognize(head: bytes) -> str | None:
    """FFmpeg's name for the container format, from the first bytes of the file, or None."""
    if head[4:8] == b"ftyp" and head[8:12] in STILL_IMAGE_BRANDS:
        return None
    for demuxer, offset, signature in SIGNATURES:
        if head[offset:].startswith(signature):
            return demuxer
    starts = range(0, len(head), TS_PACKET)
    if len(head) > TS_PACKET and all(head[start] == 0x47 for start in starts):
        return "mpegts"
    return None


@contextlib.contextmanager
def translate_errors() -> Iterator[None]:
    """Raise InvalidInput for bad bytes, without FFmpeg's message (see PYAV_ERRORS)."""
    try:
        yield
    except PYAV_ERRORS:
        raise InvalidInput(
            "could not decode the video: it is damaged or incomplete; send the whole file"
        ) from None


def _reject_file(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("a video must not refer to other files")


def _video_stream(container: InputContainer, max_side: int) -> VideoStream:
    """The first video stream that is not cover art; no other stream is read."""
    selected = None
    for stream in container.streams:
        covers = Disposition.attached_pic | Disposition.timed_thumbnails
        if selected is None and isinstance(stream, VideoStream) and not stream.disposition & covers:
            selected = stream
        else:
            stream.discard = Discard.all
    if selected is None:
        raise InvalidInput("the file contains no video stream")
    if selected.codec_context is None:
        raise InvalidInput("the video's codec is not supported")
    check_side(selected.width, selected.height, max_side)
    return selected


def check_side(width: int, height: int, max_side: int) -> None:
    if max(width, height) > max_side:
        raise TooLarge(f"the video has {width} x {height} pixels; the limit is {max_side} per side")


def survey(source: Source, max_seconds: float) -> Survey:
    """Count the frames and record where decoding can start. Reads the whole file once."""
    with source.open() as (container, stream), translate_errors():
        _check_length((container.duration or 0) / 1e6, max_seconds)
        video = Survey(unit=float(stream.time_base or 1))
        top = None
        ordered = True
        for packet in _packets(container, stream):
            if packet.is_discard or _is_hidden(packet):
                continue
            time, number = packet.pts, video.frames
            video.frames += 1
            if time is None:
                ordered = False
                continue
            if top is None:
                video.first = top = time
            elif packet.is_keyframe and time > top:
                _add_key(video, number, time)
            else:
                ordered = ordered and _check_order(video, time)
            top, video.first = max(top, time), min(video.first, time)
            video.seconds = (top - video.first) * video.unit
            _check_length(video.seconds, max_seconds)
            if video.frames > max_seconds * MAX_FRAME_RATE:
                raise TooLarge(
                    f"the video has more than {video.frames - 1:,} frames; the limit is "
                    f"{MAX_FRAME_RATE} per second of EMBEDDING_MAX_VIDEO_SECONDS"
                )
        if not ordered:
            video.key_numbers, video.key_times = array("q"), array("q")
        video.rate = _rate(stream, video)
        return video


def _add_key(video: Survey, number: int, time: int) -> None:
    if number - (video.key_numbers[-1] if video.key_numbers else 0) >= MIN_SEEK_FRAMES:
        video.key_numbers.append(number)
        video.key_times.append(time)


def _check_order(video: Survey, time: int) -> bool:
    """Frames stored after a key frame but shown before it (open GOPs) increase its number."""
    times = video.key_times
    if not times or time > times[-1]:
        return True
    video.key_numbers[-1] += 1
    return time < times[-1] and (len(times) < 2 or time > times[-2])


def _check_length(seconds: float, max_seconds: float) -> None:
    if seconds > max_seconds:
        raise TooLarge(
            f"the video is {seconds:,.0f} s long; the limit is {max_seconds:,.0f} s "
            "(EMBEDDING_MAX_VIDEO_SECONDS)"
        )


def _rate(stream: VideoStream, video: Survey) -> float:
    """The declared average, unless it differs from the measured rate by more than a factor of two
    (some screen recordings declare 1000 frames per second)."""
    measured = (video.frames - 1) / video.seconds if video.seconds > 0 else 0.0
    declared = float(stream.average_rate or 0)
    if declared <= 0 or (measured > 0 and not measured / 2 <= declared <= measured * 2):
        return measured or DEFAULT_FRAME_RATE
    return declared


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The packets that can be decoded: from the first key frame on, without truncated ones."""
    started = False
    for packet in container.demux(stream):
        started = started or packet.is_keyframe
        if started and packet.size and not packet.is_corrupt:
            yield packet


def _is_hidden(packet: Packet[VideoStream]) -> bool:
    """VP8 stores frames that serve only as references in packets of their own (RFC 6386, 9.1)."""
    return packet.stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in _packets(container, stream):
        yield from packet.decode()
    yield from stream.decode(None)


def limit_threads(threads: int, pixels: int) -> int:
    """`threads` (0: FFmpeg's choice), or fewer if the frames that they hold would not fit.

    A pixel takes three bytes (ten-bit 4:2:0): from 5K on, fewer than 16 threads may fit.
    """
    limit = MAX_FRAME_BYTES // max(1, 3 * pixels) - MAX_REFERENCE_FRAMES
    if limit >= (threads or 16):
        return threads
    return max(1, min(threads or (os.cpu_count() or 1) + 1, limit))


class FrameReader:
    """Decodes a surveyed video. Call `frame` with ascending numbers; close it at the end."""

    def __init__(self, source: Source, video: Survey, *, threads: int = 0) -> None:
        self._source = source
        self._survey = video
        self._threads = threads
        self._seekable = True
        self._lead = 0
        self._stack = contextlib.ExitStack()
        self._rewind()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def frame(self, number: int) -> VideoFrame:
        """The frame with this number. Raises InvalidInput if decoding fails before it."""
        with translate_errors():
            key = self._survey.key_before(number)
            if self._seekable and key is not None and key[0] - self._position >= MIN_SEEK_FRAMES:
                self._seek(*key)
            for frame in self._frames:
                self._position += 1
                if self._position > number:
                    return frame
        raise InvalidInput(
            f"the video is damaged: only {self._position} of its {self._survey.frames} frames "
            "could be decoded"
        )

    def _rewind(self) -> None:
        self._stack.close()
        self._container, self._stream = self._stack.enter_context(self._source.open())
        context = self._stream.codec_context
        context.thread_type = "AUTO"
        context.thread_count = limit_threads(self._threads, context.width * context.height)
        context.options = self._source.decoder_options
        self._position = 0
        self._frames: Iterator[VideoFrame] = _decode(self._container, self._stream)

    def _seek(self, number: int, time: int) -> None:
        """Seek to a key frame, or to a second before it where the index is by decoding time (MPEG).
        If the decoder does not return exactly that frame, never seek in this video again."""
        for lead in dict.fromkeys((self._lead, round(1 / self._survey.unit))):
            self._lead = lead
            if self._land(time - lead, time):
                self._position = number
                return
        self._seekable = False
        self._rewind()

    def _land(self, target: int, time: int) -> bool:
        """Whether a seek to `target` yields the key frame at `time` before any later frame."""
        try:
            self._container.seek(target, stream=self._stream)
            frames = _decode(self._container, self._stream)
            for frame in frames:
                if frame.pts == time and frame.key_frame and not frame.is_corrupt:
                    self._frames = chain([frame], frames)
                    return True
                if frame.pts is None or frame.pts >= time:
                    return False
        except PYAV_ERRORS:
            pass
        return False
