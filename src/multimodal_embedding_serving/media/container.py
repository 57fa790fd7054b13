"""A video as numbered frames: how many there are, and any of them, in ascending order.

A frame's number is its place in presentation order. Containers lie about their frame count or do
not declare one, so the packets are counted (20 ms a minute of 720p; nothing is decoded). Frames are
numbered by decoding in sequence; a seek skips what nobody asked for, and is believed only where the
decoder then shows the very frame whose number the count has told.
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
"""Demuxer, offset and bytes. The demuxer is named to FFmpeg, so that none is probed for: playlists
(HLS, concat, DASH), which read other files, can't be reached."""
STILLS = (b"avif", b"heic", b"heix", b"mif1")
"""`ftyp` brands of pictures."""
TS_PACKET = 188

DECODER_ERRORS = (
    av.FFmpegError, OSError, ValueError, LookupError, RuntimeError, ArithmeticError, MemoryError,
    AssertionError, EOFError,
)  # fmt: skip
"""What PyAV raises on bad bytes; the texts may hold file names and never leave this file."""

LEAP = 12
"""Frames that a seek must save; below, decoding on is cheaper than filling the decoder again."""
UNKNOWN_RATE = 25.0
FRAME_MEMORY = 1400 << 20
"""What decoded frames may take, of the 2 GB that the decoder's process may have."""
REFERENCES = 8
"""Frames that a decoder keeps besides one for each thread: at 8K, six are the most (H.264 A.3)."""
TOP_RATE = 240
"""Frames a second; `max_seconds` times this bounds the count of a hostile file."""


@dataclass(slots=True)
class Survey:
    """What one pass over the packets tells, without decoding."""

    frames: int = 0
    rate: float = UNKNOWN_RATE
    seconds: float = 0.0
    """From the first frame's presentation to the last one's."""
    first: int = 0
    """The first presentation time, in units."""
    unit: float = 1.0
    """Seconds: the stream's time base (a frame's own is lost when the decoder is drained)."""
    key_numbers: array[int] = field(default_factory=lambda: array("q"))
    key_times: array[int] = field(default_factory=lambda: array("q"))
    """Where decoding may start, at least LEAP frames apart; empty where times are not in order."""

    def seconds_of(self, number: int, time: int | None) -> float:
        """After the first frame, from a frame's presentation time where it has one."""
        return number / self.rate if time is None else (time - self.first) * self.unit

    def key_before(self, number: int) -> tuple[int, int] | None:
        """Number and time of the last known key frame that is not after `number`."""
        place = bisect_right(self.key_numbers, number) - 1
        return None if place < 0 else (self.key_numbers[place], self.key_times[place])


class Source:
    """An encoded video, in memory, on disk or in an open file, that can be opened again and again,
    but only once at a time."""

    def __init__(self, data: bytes | Path | int, *, max_side: int) -> None:
        self._data = data
        self.max_side = max_side

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._file())
            demuxer = recognize(file.read(3 * TS_PACKET))
            if demuxer is None:
                raise UnsupportedMedia("this is not a video of a known format")
            file.seek(0)
            with told_apart():
                container = stack.enter_context(self._container(file, demuxer))
                stream = _picture_stream(container, self.max_side)
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
            file, "r", format=demuxer, options=options, io_open=_refuse, buffer_size=1 << 18
        )
        return container

    @property
    def decoder_options(self) -> dict[str, str]:
        return {"max_pixels": str(self.max_side**2)}


def recognize(head: bytes) -> str | None:
    """FFmpeg's name for the container that the first bytes announce, or None."""
    if head[4:8] == b"ftyp" and head[8:12] in STILLS:
        return None
    for demuxer, offset, signature in SIGNATURES:
        if head[offset:].startswith(signature):
            return demuxer
    starts = range(0, len(head), TS_PACKET)
    if len(head) > TS_PACKET and all(head[start] == 0x47 for start in starts):
        return "mpegts"
    return None


@contextlib.contextmanager
def told_apart() -> Iterator[None]:
    """Bad bytes are the caller's error, said without FFmpeg's words."""
    try:
        yield
    except DECODER_ERRORS:
        raise InvalidInput("the video can't be decoded: it is damaged or incomplete") from None


def _refuse(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("a video may not name other files")


def _picture_stream(container: InputContainer, max_side: int) -> VideoStream:
    """The first video stream that is no cover picture; all others are not even read."""
    chosen = None
    for stream in container.streams:
        covers = Disposition.attached_pic | Disposition.timed_thumbnails
        if chosen is None and isinstance(stream, VideoStream) and not stream.disposition & covers:
            chosen = stream
        else:
            stream.discard = Discard.all
    if chosen is None:
        raise InvalidInput("the file holds no video")
    if chosen.codec_context is None:
        raise InvalidInput("the video's codec is not supported")
    check_side(chosen.width, chosen.height, max_side)
    return chosen


def check_side(width: int, height: int, max_side: int) -> None:
    if max(width, height) > max_side:
        raise TooLarge(f"the video has {width} x {height} pixels; a side may have {max_side}")


def survey(source: Source, max_seconds: float) -> Survey:
    """Count the frames and note where decoding may start. Reads the whole file once."""
    with source.open() as (container, stream), told_apart():
        _check_length((container.duration or 0) / 1e6, max_seconds)
        found = Survey(unit=float(stream.time_base or 1))
        top = None
        ordered = True
        for packet in _packets(container, stream):
            if packet.is_discard or _is_hidden(packet):
                continue
            time, number = packet.pts, found.frames
            found.frames += 1
            if time is None:
                ordered = False
                continue
            if top is None:
                found.first = top = time
            elif packet.is_keyframe and time > top:
                _note_key(found, number, time)
            else:
                ordered = ordered and _mind_order(found, time)
            top, found.first = max(top, time), min(found.first, time)
            found.seconds = (top - found.first) * found.unit
            _check_length(found.seconds, max_seconds)
            if found.frames > max_seconds * TOP_RATE:
                raise TooLarge(f"the video has more than {found.frames - 1:,} frames")
        if not ordered:
            found.key_numbers, found.key_times = array("q"), array("q")
        found.rate = _rate(stream, found)
        return found


def _note_key(found: Survey, number: int, time: int) -> None:
    if number - (found.key_numbers[-1] if found.key_numbers else 0) >= LEAP:
        found.key_numbers.append(number)
        found.key_times.append(time)


def _mind_order(found: Survey, time: int) -> bool:
    """Frames stored after a key frame but shown before it (open groups) push its number up."""
    times = found.key_times
    if not times or time > times[-1]:
        return True
    found.key_numbers[-1] += 1
    return time < times[-1] and (len(times) < 2 or time > times[-2])


def _check_length(seconds: float, max_seconds: float) -> None:
    if seconds > max_seconds:
        raise TooLarge(f"the video is {seconds:,.0f} s long; the limit is {max_seconds:,.0f} s")


def _rate(stream: VideoStream, found: Survey) -> float:
    """The declared average, unless the frames' times belie it by more than a factor of two (screen
    recordings that declare 1000 a second)."""
    measured = (found.frames - 1) / found.seconds if found.seconds > 0 else 0.0
    declared = float(stream.average_rate or 0)
    if declared <= 0 or (measured > 0 and not measured / 2 <= declared <= measured * 2):
        return measured or UNKNOWN_RATE
    return declared


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """What can be decoded: from the first key frame on, without packets that were cut short."""
    started = False
    for packet in container.demux(stream):
        started = started or packet.is_keyframe
        if started and packet.size and not packet.is_corrupt:
            yield packet


def _is_hidden(packet: Packet[VideoStream]) -> bool:
    """VP8 keeps frames that are only referred to in packets of their own (RFC 6386, 9.1)."""
    return packet.stream.codec_context.name == "vp8" and not memoryview(packet)[0] & 0x10


def _decode(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    for packet in _packets(container, stream):
        yield from packet.decode()
    yield from stream.decode(None)


def fitting_threads(asked: int, pixels: int) -> int:
    """As many as asked (0: FFmpeg's choice), unless the frames that each holds would not fit.

    A pixel has three bytes (4:2:0 of ten bits): from 5K on this may be less than 16 threads.
    """
    most = FRAME_MEMORY // max(1, 3 * pixels) - REFERENCES
    return asked if most >= (asked or 16) else max(1, min(asked or (os.cpu_count() or 1) + 1, most))


class Footage:
    """The frames of a surveyed video. Call `frame` with ascending numbers; close when done."""

    def __init__(self, source: Source, found: Survey, *, threads: int = 0) -> None:
        self._source = source
        self._survey = found
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
        """The frame with this number; InvalidInput where decoding fails before it."""
        with told_apart():
            key = self._survey.key_before(number)
            if self._seekable and key is not None and key[0] - self._position >= LEAP:
                self._leap(*key)
            for frame in self._frames:
                self._position += 1
                if self._position > number:
                    return frame
        raise InvalidInput(
            f"the video is damaged: of its {self._survey.frames} frames, "
            f"only {self._position} could be decoded"
        )

    def _rewind(self) -> None:
        self._stack.close()
        self._container, self._stream = self._stack.enter_context(self._source.open())
        context = self._stream.codec_context
        context.thread_type = "AUTO"
        context.thread_count = fitting_threads(self._threads, context.width * context.height)
        context.options = self._source.decoder_options
        self._position = 0
        self._frames: Iterator[VideoFrame] = _decode(self._container, self._stream)

    def _leap(self, number: int, time: int) -> None:
        """Seek to a key frame, or a second before it where the index is by decoding time (MPEG);
        where the decoder does not show exactly it, never seek again."""
        for lead in dict.fromkeys((self._lead, round(1 / self._survey.unit))):
            self._lead = lead
            if self._land(time - lead, time):
                self._position = number
                return
        self._seekable = False
        self._rewind()

    def _land(self, target: int, time: int) -> bool:
        """Whether the frame of this presentation time, and none after it, follows a seek."""
        try:
            self._container.seek(target, stream=self._stream)
            frames = _decode(self._container, self._stream)
            for frame in frames:
                if frame.pts == time and frame.key_frame and not frame.is_corrupt:
                    self._frames = chain([frame], frames)
                    return True
                if frame.pts is None or frame.pts >= time:
                    return False
        except DECODER_ERRORS:
            pass
        return False
