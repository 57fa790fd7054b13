"""Numbers the frames of a video from its packets, without decoding (20 ms per minute of 720p).

A frame's number is its place in presentation order. Containers declare a wrong frame count or none,
so the packets are counted and put in the order of their presentation times. Where those times prove
nothing (AVI and ASF with H.264, program streams without times, transport streams joined inside open
groups), the timeline says so, and `reader` replaces its order by that of the decoder.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Container, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from multimodal_embedding_serving.errors import InvalidInput, TooLarge
from multimodal_embedding_serving.media.container import PYAV_ERRORS, Source, translate_errors
from multimodal_embedding_serving.media.field_pairs import FieldPairs

Numbers = NDArray[np.int64]

MIN_SEEK_FRAMES = 12
"""Frames that a seek must skip; for fewer, decoding on is cheaper than refilling the decoder."""
DEFAULT_FRAME_RATE = 25.0
MAX_FRAME_RATE = 240
"""Frames per second; `max_seconds` times this limits the frame count of a hostile file."""
UNKNOWN = -(1 << 62)
"""The time of a packet that has none."""
JUMPING_CLOCKS = ("mpegts", "mpeg")
"""Demuxers of streams that may be joined; a file in any other container has one clock."""
MAX_GAP_SECONDS = 10.0
"""A larger step of a clock that may jump is a jump (FFmpeg's dts_delta_threshold)."""
DECODING_TIMES_ONLY = ("avi", "asf", "mpeg")
"""Demuxers of containers that store no presentation times, or not one for each frame."""
MAX_NOT_CODED_BYTES = 19
"""MPEG-4: a packet up to this size may say only that no frame is coded (FFmpeg's MAX_NVOP_SIZE)."""
VOP = b"\0\0\1\xb6"
"""MPEG-4: the start code of a frame."""


@dataclass(frozen=True, slots=True)
class Key:
    """A packet where decoding can start, and what identifies it after a seek."""

    ordinal: int
    rank: int
    time: int
    """In units of the stream, as the demuxer says it."""
    position: int | None
    """The byte in the file."""
    size: int
    leading: int = -1
    """The last packet that is shown before this one; it may follow it in the file (open groups)."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The packets of the track in presentation order. An ordinal is a packet's place in the file, a
    rank its place in presentation order."""

    ranks: Numbers
    """By ordinal; -1 for a packet that shows no frame (it may still be needed for decoding)."""
    sizes: Numbers
    """Bytes, by ordinal."""
    seconds: NDArray[np.float64]
    """By rank; ascending, also where the clock of the file jumps."""
    start: int
    """The ordinal of the first key frame: what lies before it can't be decoded."""
    rate: float
    unit: float
    """Seconds: the stream's time base."""
    proven: bool
    """Whether the order is known without decoding."""
    keys: tuple[Key, ...] = ()
    """Where decoding can start, at least MIN_SEEK_FRAMES apart."""

    @property
    def total(self) -> int:
        return len(self.seconds)

    def key_before(self, rank: int, unusable: Container[int] = ()) -> Key | None:
        """The last known key frame at or before `rank`; not one of the ordinals `unusable`."""
        place = bisect_right(self.keys, rank, key=lambda key: key.rank)
        before = reversed(self.keys[:place])
        return next((key for key in before if key.ordinal not in unusable), None)

    def key_after(self, rank: int, unusable: Container[int] = ()) -> Key | None:
        """The first known key frame after `rank`; not one of the ordinals `unusable`."""
        place = bisect_right(self.keys, rank, key=lambda key: key.rank)
        after = islice(self.keys, place, None)
        return next((key for key in after if key.ordinal not in unusable), None)

    def reordered(self, shown: array[int]) -> Timeline:
        """The timeline in the order in which the decoder showed the packets `shown` (ordinals).

        A packet that it did not show takes the place before the first later packet that it did.
        """
        count = len(self.ranks)
        first = np.array(shown, dtype=np.int64)
        first = first[(first >= 0) & (first < count)]
        _, places = np.unique(first, return_index=True)
        first = first[np.sort(places)]
        counted = self.ranks >= 0
        place = np.full(count, -1, dtype=np.int64)
        place[first] = np.arange(len(first))
        # `reach[p]`: the largest ordinal among the first p + 1 frames that were shown.
        reach = np.maximum.accumulate(first) if len(first) else first
        ordinals = np.arange(count)
        missing = counted & (place < 0)
        before = np.searchsorted(reach, ordinals[missing], side="right")
        slot = np.where(place >= 0, 2 * place + 1, 0)
        slot[missing] = 2 * before
        listed = ordinals[counted | (place >= 0)]
        order = listed[np.lexsort((listed, slot[listed]))]
        seconds = self.seconds
        if len(order) > len(seconds):  # frames that the packets did not announce
            tail = seconds[-1] if len(seconds) else 0.0
            more = np.arange(1, len(order) - len(seconds) + 1) / self.rate
            seconds = np.concatenate([seconds, tail + more])
        ranks = np.full(count, -1, dtype=np.int64)
        ranks[order] = np.arange(len(order))
        keys = tuple(replace(key, rank=int(ranks[key.ordinal])) for key in self.keys)
        return replace(
            self, ranks=ranks, seconds=seconds, proven=True, keys=_usable(list(keys), ranks)
        )


@dataclass(slots=True)
class _Log:
    """What one pass over the packets yields."""

    unit: float
    jumping: bool
    times: array[int] = field(default_factory=lambda: array("q"))
    epochs: array[int] = field(default_factory=lambda: array("i"))
    """By packet: how often the clock has jumped before it."""
    sizes: array[int] = field(default_factory=lambda: array("i"))
    counted: bytearray = field(default_factory=bytearray)
    reordered: bytearray = field(default_factory=bytearray)
    """Packets that are shown later than they are decoded: of two with one time (the last frames of
    a program stream), such a one is the second."""
    keys: list[Key] = field(default_factory=list)
    first_key: int | None = None
    untimed: bool = False
    joined: bool = False
    """Streams may be joined at a place where the decoder mixes their frames."""
    uncertain: bool = False
    elapsed: int = 0
    """Units before the current epoch."""
    low: int | None = None
    high: int = 0
    """The presentation times of the current epoch."""
    clock: int | None = None
    """The last decoding time."""
    seam: int | None = None
    """The presentation time of a key frame that may be the first of a joined stream."""
    corrupt: int = -9
    """The ordinal of the last packet that the demuxer calls corrupt."""

    def add(self, packet: Packet[VideoStream], shown: bool, codec: str) -> None:
        ordinal, time = len(self.times), packet.pts
        jumped = self._check_clock(packet)
        self.times.append(UNKNOWN if time is None else time)
        self.sizes.append(packet.size)
        self.epochs.append(self.epochs[-1] + jumped if self.epochs else 0)
        if packet.is_corrupt:
            self.corrupt = ordinal
        if packet.is_keyframe:
            if self.first_key is None:
                self.first_key = ordinal
            suspect = codec in ("h264", "hevc") and 0 < ordinal - self.corrupt <= 3
            self.seam = time if jumped or suspect else None
            if shown and time is not None and not packet.is_corrupt:
                self.keys.append(Key(ordinal, -1, time, packet.pos, packet.size))
        elif jumped or (self.seam is not None and time is not None and time < self.seam):
            self.joined = True
        self.counted.append(shown)
        self.reordered.append(time is not None and packet.dts is not None and time > packet.dts)
        if time is None:
            self.untimed = self.untimed or shown
        elif shown:
            self.high = time if self.low is None else max(self.high, time)
            self.low = time if self.low is None else min(self.low, time)

    def _check_clock(self, packet: Packet[VideoStream]) -> bool:
        time = packet.dts
        if time is None:
            return False
        step = 0 if self.clock is None else time - self.clock
        self.clock = time
        if step >= 0 and not (self.jumping and step * self.unit > MAX_GAP_SECONDS):
            return False
        if self.low is not None:
            self.elapsed += self.high - self.low
        self.low = None
        return True

    @property
    def seconds(self) -> float:
        return (self.elapsed + (0 if self.low is None else self.high - self.low)) * self.unit


def survey(source: Source, max_seconds: float) -> Timeline:
    """Count the frames and record where decoding can start. Reads the whole file once.

    Raises TooLarge for a video that is longer than `max_seconds`, and InvalidInput.
    """
    with source.open() as (container, stream), translate_errors():
        jumping = container.format.name in JUMPING_CLOCKS
        if not jumping:  # else the declared length is that of the clock
            _check_length((container.duration or 0) / 1e6, max_seconds)
        log = _Log(float(stream.time_base or 1), jumping)
        shows = Pictures(stream.codec_context.name, stream.codec_context.extradata)
        for packet in packets(container, stream):
            log.add(packet, shows(packet) and not packet.is_discard, shows.codec)
            _check_length(log.seconds, max_seconds)
            if len(log.times) > max_seconds * MAX_FRAME_RATE:
                raise TooLarge(
                    f"the video has more than {len(log.times) - 1:,} frames; the limit is "
                    f"{MAX_FRAME_RATE} per second of EMBEDDING_MAX_VIDEO_SECONDS"
                )
        log.uncertain = shows.uncertain
        return _timeline(log, container, stream)


def packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The track's packets. A read error ends them, as the end of the file does."""
    try:
        for packet in container.demux(stream):
            if packet.size:
                yield packet
    except MemoryError:
        raise
    except PYAV_ERRORS:
        return


def _check_length(seconds: float, max_seconds: float) -> None:
    if seconds > max_seconds:
        raise TooLarge(
            f"the video is {seconds:,.0f} s long; the limit is {max_seconds:,.0f} s "
            "(EMBEDDING_MAX_VIDEO_SECONDS)"
        )


def _timeline(log: _Log, container: InputContainer, stream: VideoStream) -> Timeline:
    start = log.first_key or 0
    counted = np.frombuffer(log.counted, dtype=np.uint8).astype(bool)
    counted[:start] = False
    if not counted.any():
        raise InvalidInput("the video contains no frame that can be decoded")
    times, epochs = np.array(log.times, dtype=np.int64), np.array(log.epochs, dtype=np.int64)
    ordinals = np.arange(len(times))[counted]
    proven = not (log.untimed or log.joined or log.uncertain) and not _lacks_order(
        times[counted], container, stream
    )
    declared = float(stream.average_rate or 0)
    times = _fill(times, round(1 / ((declared or DEFAULT_FRAME_RATE) * log.unit)))
    later = np.frombuffer(log.reordered, dtype=np.uint8)
    order = ordinals[np.lexsort((later[ordinals], times[ordinals], epochs[ordinals]))]
    units, step = _continuous(times[order], epochs[order])
    rate = _rate(declared, units, step, log.unit, jumped=bool(epochs[-1]))
    ranks = np.full(len(times), -1, dtype=np.int64)
    ranks[order] = np.arange(len(order))
    keys = [replace(key, rank=int(ranks[key.ordinal])) for key in log.keys]
    return Timeline(
        ranks=ranks,
        sizes=np.array(log.sizes, dtype=np.int64),
        seconds=units.astype(np.float64) * log.unit,
        start=start,
        rate=rate,
        unit=log.unit,
        proven=proven,
        keys=_usable(keys, ranks),
    )


def _lacks_order(times: Numbers, container: InputContainer, stream: VideoStream) -> bool:
    """Whether the codec may reorder frames, but the times are only those of decoding."""
    context = stream.codec_context
    stored = container.format.name in DECODING_TIMES_ONLY or (
        container.format.name.startswith("matroska") and context.codec_tag.strip("\0") != ""
    )
    return stored and context.has_b_frames and bool((np.diff(times) > 0).all())


def _fill(times: Numbers, step: int) -> Numbers:
    """Packets without a time follow the previous one."""
    known = times != UNKNOWN
    if known.all():
        return times
    last = np.maximum.accumulate(np.where(known, np.arange(len(times)), -1))
    after = np.arange(len(times)) - last
    base = np.where(last < 0, 0, times[np.maximum(last, 0)])
    filled: Numbers = base + after * max(1, step)
    return filled


def _continuous(times: Numbers, epochs: Numbers) -> tuple[Numbers, int]:
    """Units since the first frame, in presentation order, as if the clock did not jump; and the
    median step. After a jump, the times go on one step after the last."""
    steps = np.diff(times)
    same = np.diff(epochs) == 0
    step = int(np.median(steps[same])) if same.any() else 0
    steps = np.where(same, steps, step)
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(steps)]), step


def _rate(declared: float, units: Numbers, step: int, unit: float, *, jumped: bool) -> float:
    """The declared average, unless it differs from the measured rate by more than a factor of two
    (some screen recordings declare 1000 frames per second)."""
    length = float(units[-1]) * unit
    measured = (len(units) - 1) / length if length > 0 else 0.0
    if jumped and step > 0:
        measured = 1 / (step * unit)
    if declared <= 0 or (measured > 0 and not measured / 2 <= declared <= measured * 2):
        return measured or DEFAULT_FRAME_RATE
    return declared


def _usable(keys: list[Key], ranks: Numbers) -> tuple[Key, ...]:
    """The key frames that all earlier packets precede in presentation order, far enough apart."""
    highest = np.maximum.accumulate(ranks)
    # A packet that shows nothing belongs to the one before: it may be the other field of its frame.
    owners = np.maximum.accumulate(np.where(ranks < 0, 0, np.arange(len(ranks))))
    lowest = np.where(ranks[owners] < 0, len(ranks), ranks[owners])
    # `lowest[o]`: the least rank among the packets from the ordinal `o` on.
    lowest = np.minimum.accumulate(lowest[::-1])[::-1]
    usable: list[Key] = []
    for key in keys:
        last = usable[-1].rank if usable else 0
        first = key.ordinal == 0 or highest[key.ordinal - 1] < key.rank
        if first and key.rank - last >= MIN_SEEK_FRAMES:
            leading = int(np.searchsorted(lowest, key.rank)) - 1
            usable.append(replace(key, leading=max(leading, key.ordinal - 1)))
    return tuple(usable)


class Pictures:
    """Tells the packets of one track that show a frame from those that don't.

    VP8 and VP9 store frames that serve only as references (RFC 6386, 9.1). MPEG-4 has packets that
    say only that no frame is coded. In the packed form (DivX), such a packet stands for the second
    of two frames in the packet before. H.264 may have a packet for each field of a frame.
    """

    def __init__(self, codec: str, extradata: bytes | None = None) -> None:
        self.codec = codec
        self._fields = FieldPairs(extradata)
        self.uncertain = False
        """Only the decoder knows which packets show a frame, and in which order."""
        self._owed = 0

    def __call__(self, packet: Packet[VideoStream]) -> bool:
        view: Any = memoryview(packet)
        if self.codec == "vp8":
            return bool(view[0] & 0x10)
        if self.codec == "h264":
            return not self._fields(bytes(view), packet.is_keyframe)
        if self.codec == "vp9":
            return _shows_vp9(view[0], view[len(view) - 1])
        return self.codec != "mpeg4" or self._shows_mpeg4(bytes(view))

    def _shows_mpeg4(self, data: bytes) -> bool:
        frames = data.count(VOP)
        if frames == 2:
            self.uncertain, self._owed = True, self._owed + 1
        if frames != 1 or len(data) > MAX_NOT_CODED_BYTES:
            return True
        self._owed, owed = max(0, self._owed - 1), self._owed
        self.uncertain = True  # a frame of a few equal blocks is as short
        return owed > 0


def _shows_vp9(first: int, last: int) -> bool:
    """show_existing_frame or show_frame; a superframe (it ends with its index) shows its last."""
    if first >> 6 != 2 or last & 0xE0 == 0xC0:
        return True
    skip = 1 if first & 0x30 == 0x30 else 0  # profile 3 has a reserved bit
    return bool(first >> (3 - skip) & 1 or first >> (1 - skip) & 1)
