"""Decodes frames of a surveyed video by their numbers, in ascending order.

Each packet carries its ordinal through the decoder in place of its time, so every frame names its
packet. The video is divided into sections, each from a key frame to the next. Each section has a
decoder of its own, which knows nothing of the sections before, whether the section is reached by a
seek or by decoding on. So a number means the same image however it is reached, also in a damaged
video, where decoders conceal what is missing by copying from the frames that they have seen, mostly
without saying so.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain, islice
from types import TracebackType
from typing import Any, NoReturn, Self

import av
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from multimodal_embedding_serving.errors import InvalidInput
from multimodal_embedding_serving.media.container import PYAV_ERRORS, Source, translate_errors
from multimodal_embedding_serving.media.survey import MIN_SEEK_FRAMES, Key, Timeline, packets

MAX_FRAME_BYTES = 1400 << 20
"""Memory for decoded frames, of the 2 GB that the decoder process may use."""
MAX_REFERENCE_FRAMES = 8
"""Frames that a decoder keeps besides one per thread: at 8K, at most six (H.264, A.3)."""
MAX_LANDING_PACKETS = 4096
"""After a seek, the packets among which the key frame must be."""
MAX_RESTARTS = 1024
"""Times that decoding goes back in a damaged video; after these, it is decoded in order."""
MAX_UNUSABLE_KEYS = 8
"""Neighboring key frames at which decoding can't start, after which no other key frame is tried."""

CONCEALING_CODECS = frozenset(
    "h264 hevc mpeg1video mpeg2video mpeg4 h263 flv msmpeg4v1 msmpeg4v2 msmpeg4 wmv1 wmv2".split()
)
"""Decoders that fill what is damaged from its surroundings and from other frames. The others leave
there what the memory held before: such a frame is missing, and so are those that refer to it."""
SINGLE_THREAD_CODECS = (CONCEALING_CODECS - {"h264", "hevc"}) | {"vp8", "ffv1"}
"""Decoders whose threads may read, in a damaged video, what other threads have not written yet: the
result depends on timing. They are fast with one thread."""

Numbered = tuple[int, VideoFrame]
NumberedPacket = tuple[int, "Packet[VideoStream]"]


class _Restart(Exception):
    """The frame must be reached in another way, or its section decoded with other options."""


def limit_threads(threads: int, pixels: int) -> int:
    """`threads` (0: FFmpeg's choice), or fewer if the frames that they hold would not fit.

    A pixel takes three bytes (ten-bit 4:2:0): from 5K on, fewer than 16 threads may fit.
    """
    limit = MAX_FRAME_BYTES // max(1, 3 * pixels) - MAX_REFERENCE_FRAMES
    if limit >= (threads or 16):
        return threads
    # The affinity, since the number of cores is in a file, which an isolated process can't open.
    return max(1, min(threads or len(os.sched_getaffinity(0)) + 1, limit))


class FrameReader:
    """A context manager. Call `frame` with ascending numbers.

    Entering it decodes the first frame, which has the number 0, and raises InvalidInput if there is
    none. A video whose order is not proven is decoded completely, once.
    """

    def __init__(self, source: Source, timeline: Timeline, *, threads: int = 0) -> None:
        self._source, self._timeline, self._threads = source, timeline, threads
        self._stack = contextlib.ExitStack()
        self._ordered = timeline.proven
        self._landings: list[Callable[[Key], None]] = []
        self._seekable = True
        self._restarts = 0
        self._damaged: set[int | None] = set()
        """The sections, by the ordinal of their key, in which the decoder has reported an error.
        They are decoded with one thread: an error then costs only the packet at fault. With
        several, PyAV loses the frames of other threads with it."""
        self._unusable: set[int] = set()
        """Key frames at which decoding can't start: their sections belong to the one before."""
        self._primer: Packet[VideoStream] | None = None
        """MPEG-4: the packet that may name the encoder, whose habits the decoder must know."""
        self._base = 0
        self._held: Numbered | None = None

    def __enter__(self) -> Self:
        try:
            with translate_errors():
                if not self._timeline.proven:
                    self._timeline = self._timeline.reordered(self._shown())
                self._open()
                self._base = self._first()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def frames(self) -> int:
        return self._timeline.total - self._base

    @property
    def rate(self) -> float:
        return self._timeline.rate

    @property
    def pixel_aspect(self) -> Fraction | None:
        """The width of a pixel, if its height is 1; None: not declared."""
        with translate_errors():
            return self._stream.sample_aspect_ratio

    def seconds(self, number: int) -> float:
        """Seconds after the first frame."""
        times = self._timeline.seconds
        return float(times[self._base + number] - times[self._base])

    def frame(self, number: int) -> VideoFrame | None:
        """The frame with this number; None if it can't be decoded."""
        with translate_errors():
            return self._read(self._base + number)

    def _first(self) -> int:
        """The rank of the first frame that can be decoded."""
        rank = 0
        while True:
            frame = self._read(rank)
            if frame is not None:
                self._held = rank, frame
            if self._held is not None:
                return self._held[0]
            key = self._timeline.key_after(rank)
            if key is None:
                raise InvalidInput("the video contains no frame that can be decoded")
            rank = key.rank

    def _shown(self) -> array[int]:
        """Decode everything in order, as one section; the ordinals in the decoder's order."""
        while True:
            try:
                self._open()
                shown = array("q", (ordinal for ordinal, _ in self._decode(None)))
            except _Restart:
                continue
            self._damaged.clear()
            return shown

    def _read(self, rank: int) -> VideoFrame | None:
        back = False
        while True:
            try:
                if back:
                    self._go_back(rank)
                self._approach(rank)
                return self._take(rank)
            except _Restart:
                back = True

    def _go_back(self, rank: int) -> None:
        """Begin the section that holds the frame, or the first one."""
        self._restarts += 1
        if self._restarts > MAX_RESTARTS:
            self._seekable = False
            self._timeline = replace(self._timeline, keys=())
        key = self._timeline.key_before(rank, self._unusable)
        if self._seekable and key:
            self._seek(key)
        else:
            self._open()

    def _approach(self, rank: int) -> None:
        """Begin the section that holds the frame: by a seek if that skips enough frames, else by
        decoding on."""
        key = self._timeline.key_before(rank, self._unusable)
        while key is not None and self._key != key:
            if self._seekable and key.rank - self._position >= MIN_SEEK_FRAMES:
                self._seek(key)
            else:
                self._advance()

    def _take(self, rank: int) -> VideoFrame | None:
        """The frame, if the section shows it.

        No frame is kept while the next one is decoded: a decoder may show, where data is damaged,
        what the memory that it uses again held before, which must not depend on the caller.
        """
        if self._held is not None and self._held[0] < rank:
            self._held = None
        if self._held is None:
            self._held = next((item for item in self._frames if item[0] >= rank), None)
        if self._held is None or self._held[0] > rank:
            return None
        frame, self._held = self._held[1], None
        return frame

    def _open(self) -> None:
        self._stack.close()
        self._container, self._stream = self._stack.enter_context(self._source.open())
        numbered = enumerate(packets(self._container, self._stream))
        self._packets: Iterator[NumberedPacket] = islice(numbered, self._timeline.start, None)
        self._again: deque[NumberedPacket] = deque()
        """Packets to be decoded before `_packets`."""
        self._sought = False
        self._begin(None)

    def _begin(self, key: Key | None) -> None:
        self._key, self._position = key, key.rank if key else 0
        self._key_packet: Packet[VideoStream] | None = None
        self._held = None
        self._lost: int | None = None
        """The packet at fault, if the frames from it on are not to be trusted."""
        name = self._stream.codec_context.name
        self._conceals = name in CONCEALING_CODECS
        self._careful = (key.ordinal if key else None) in self._damaged
        single = self._careful or name in SINGLE_THREAD_CODECS
        self._decoder = self._new_decoder(
            threads=1 if single else self._threads, strict=not (self._careful and self._conceals)
        )
        if key and self._primer:
            with contextlib.suppress(*PYAV_ERRORS):
                self._decoder.decode(self._primer)
            self._decoder.flush_buffers()
        self._following = self._timeline.key_after(self._position, self._unusable)
        self._frames = self._section(key, self._following)

    def _new_decoder(self, *, threads: int, strict: bool) -> VideoCodecContext:
        """`strict`: an error in a packet is raised, rather than logged."""
        with av.open(io.BytesIO(), "w", format="null") as copy:
            context = copy.add_stream_from_template(self._stream, opaque=True).codec_context
        context.thread_type = "AUTO"
        context.thread_count = limit_threads(threads, context.width * context.height)
        context.options = {
            **self._source.decoder_options,
            **({"err_detect": "explode"} if strict else {}),
        }
        return context

    def _advance(self) -> None:
        """Decode to the end of the section and begin the following one."""
        for _ in self._frames:
            pass
        self._begin(self._following)

    def _section(self, key: Key | None, following: Key | None) -> Iterator[Numbered]:
        """The frames that are shown from `key` until `following`, with their ranks.

        The key frame must be the first: it is not where an image is refreshed in parts (H.264's
        recovery points).
        """
        ranks, begun = self._timeline.ranks, key is None
        end = following.rank if following else sys.maxsize
        for ordinal, frame in self._decode(following):
            rank = int(ranks[ordinal]) if 0 <= ordinal < len(ranks) else -1
            if rank < self._position or rank >= end:
                continue
            if key and not begun:
                if ordinal != key.ordinal or not frame.key_frame or frame.is_corrupt:
                    self._reject(key)
                begun = True
            self._position = rank + 1
            yield rank, frame
        if key and not begun:
            self._reject(key)

    def _decode(self, following: Key | None) -> Iterator[Numbered]:
        """Decode until `following`, and the frames that are shown before it. Its own packet and the
        packets of those frames (of an open group) are decoded again in the next section."""
        again: list[NumberedPacket] = []
        ordinal = -1
        for ordinal, packet in chain(self._drain_again(), self._packets):
            if following and ordinal >= following.ordinal:
                again.append((ordinal, packet))
                if ordinal > following.leading:
                    break
            self._check_landing(ordinal, packet.size)
            if self._precedes(ordinal):
                continue
            packet.pts = packet.dts = ordinal
            if packet.is_keyframe:
                self._lost = None
            if self._key and ordinal == self._key.ordinal:
                self._key_packet = packet
            if self._decoder.name == "mpeg4" and ordinal == self._timeline.start:
                self._primer = packet
            yield from self._decode_packet(packet)
        else:
            self._check_landing(ordinal + 1, 0)
        yield from self._decode_packet(None)
        self._again.extendleft(reversed(again))

    def _precedes(self, ordinal: int) -> bool:
        """Whether a packet after the section's key frame is shown before it: it refers to frames
        of the section before, and no frame of this section refers to it.

        Other decoders skip it themselves. H.264's calls it damaged, and MPEG-4's derives a wrong
        frame rate from it; but there, a packet may hold two frames if the order is not proven.
        """
        if self._key is None or self._decoder.name not in ("h264", "mpeg4"):
            return False
        if self._decoder.name == "mpeg4" and not self._ordered:
            return False
        ranks = self._timeline.ranks
        if ranks[ordinal] < 0 and ordinal > 0:  # the other field of the frame before
            ordinal -= 1
        return 0 <= int(ranks[ordinal]) < self._key.rank

    def _drain_again(self) -> Iterator[NumberedPacket]:
        while self._again:
            yield self._again.popleft()

    def _decode_packet(self, packet: Packet[VideoStream] | None) -> Iterator[Numbered]:
        try:
            frames: list[Any] = self._decoder.decode(packet)
        except MemoryError:
            raise
        except PYAV_ERRORS:
            self._note_damage(packet)
            return
        while frames:
            frame = frames.pop(0)  # the list would keep it alive
            if frame.is_corrupt:
                self._note_damage(None)
            if frame.pts is not None and self._lost is None:
                yield frame.pts, frame

    def _note_damage(self, packet: Packet[VideoStream] | None) -> None:
        if not self._careful:
            if self._key and not self._is_sound(self._key_packet):
                self._reject(self._key)
            self._damaged.add(self._key.ordinal if self._key else None)
            raise _Restart
        if packet and self._key and packet.pts == self._key.ordinal:
            self._reject(self._key)
        if packet and not self._conceals:
            self._lost = packet.pts

    def _is_sound(self, packet: Packet[VideoStream] | None) -> bool:
        decoder = self._new_decoder(threads=1, strict=True)
        try:
            frames = [*decoder.decode(packet), *decoder.decode(None)]
        except MemoryError:
            raise
        except PYAV_ERRORS:
            return False
        return bool(frames) and not frames[0].is_corrupt

    def _reject(self, key: Key) -> NoReturn:
        """Decoding can't start at this key frame."""
        self._unusable.add(key.ordinal)
        keys = [each.ordinal for each in self._timeline.keys]
        place, run = keys.index(key.ordinal), 1
        for neighbors in (reversed(keys[:place]), keys[place + 1 :]):
            for ordinal in neighbors:
                if ordinal not in self._unusable:
                    break
                run += 1
        if run >= MAX_UNUSABLE_KEYS:
            self._timeline = replace(self._timeline, keys=())
        raise _Restart

    def _seek(self, key: Key) -> None:
        for seek in self._landings or self._seeks():
            if self._lands(key, seek):
                self._landings, self._sought = [seek], True
                self._begin(key)
                return
        self._seekable = False
        raise _Restart

    def _seeks(self) -> list[Callable[[Key], None]]:
        """Ways to reach a key frame: by its byte (a clock that jumps has no usable index), by its
        time, and by a second earlier, where the index is by decoding time (MPEG)."""

        def to_byte(key: Key) -> None:
            self._container.seek(
                key.position or 0, stream=self._stream, unsupported_byte_offset=True
            )

        def to_time(key: Key) -> None:
            self._container.seek(key.time, stream=self._stream)

        def to_second_before(key: Key) -> None:
            second = round(1 / self._timeline.unit)
            self._container.seek(key.time - second, stream=self._stream)

        by_byte = [to_byte] if self._container.format.name == "mpegts" else []
        return [*by_byte, to_time, to_second_before]

    def _lands(self, key: Key, seek: Callable[[Key], None]) -> bool:
        """Whether the key frame's packet is found after the seek: it is then the next packet."""
        try:
            seek(key)
            after = packets(self._container, self._stream)
            for packet in islice(after, MAX_LANDING_PACKETS):
                if (packet.pos, packet.pts, packet.size) == (key.position, key.time, key.size):
                    self._again.clear()
                    self._packets = enumerate(chain([packet], after), key.ordinal)
                    return True
        except MemoryError:
            raise
        except PYAV_ERRORS:
            pass
        return False

    def _check_landing(self, ordinal: int, size: int) -> None:
        """After a seek, a demuxer may divide damaged bytes into other packets than before, or end
        before (size 0) or after the last one."""
        sizes = self._timeline.sizes
        expected = int(sizes[ordinal]) if ordinal < len(sizes) else 0
        if self._sought and size != expected:
            self._seekable = False
            raise _Restart
