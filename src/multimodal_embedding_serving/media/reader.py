"""Decodes frames of a surveyed video by their numbers, in ascending order.

Each packet carries its ordinal through the decoder in place of its time, so every frame names its
packet. A seek skips frames that are not needed. It is used only if the packet that it should reach
is found there, and only as long as nothing after it is damaged: else decoding starts at the first
frame. After damage, decoding goes on from the next key frame, as it does for a frame that is
requested alone. So a number means the same image however it is reached.
"""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain, islice
from types import TracebackType
from typing import Any, Self

from av.packet import Packet
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

Numbered = tuple[int, VideoFrame]


MAX_RESTARTS = 16
"""Key frames of a damaged video from which decoding may fail; then it is decoded in order."""


class _Unproven(Exception):
    """What was decoded may differ from what another way to the frame gives."""


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
        self._seekable = True
        self._bad = -1
        """The rank of the last key frame that is followed by damage; it is not used again."""
        self._restarts = 0
        self._careful = threads == 1
        """With one thread, an error costs only the packet at fault: with several, PyAV loses the
        frames of other threads with it."""
        self._landings: list[Callable[[Key], None]] = []
        self._stack = contextlib.ExitStack()
        self._base = 0
        self._held: Numbered | None = None
        self._position = 0

    def __enter__(self) -> Self:
        try:
            with translate_errors():
                self._rewind()
                if not self._timeline.proven:
                    self._timeline = self._timeline.reordered(self._shown())
                    self._rewind()
                first = self._read_to(0)
        except BaseException:
            self._stack.close()
            raise
        if first is None and self._held is None:
            raise InvalidInput("the video contains no frame that can be decoded")
        if first is not None:
            self._held = (0, first)
        elif self._held is not None:
            self._base = self._held[0]
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
            return self._read_to(self._base + number)

    def _read_to(self, rank: int) -> VideoFrame | None:
        while True:
            try:
                self._approach(rank)
                while True:
                    item = self._next()
                    if self._approach(rank):  # damage was met on the way
                        continue
                    if item is not None and item[0] < rank:
                        continue
                    if item is not None and item[0] > rank:
                        self._held, item = item, None
                    return item and item[1]
            except _Unproven:
                self._start_again()

    def _shown(self) -> array[int]:
        """Decode everything; the ordinals in the decoder's order."""
        while True:
            shown = array("q")
            try:
                for ordinal, _ in self._frames:
                    shown.append(ordinal)
                return shown
            except _Unproven:
                self._start_again()

    def _next(self) -> Numbered | None:
        """The next frame that has a number, with its rank."""
        if self._held is not None:
            item, self._held = self._held, None
            return item
        ranks = self._timeline.ranks
        for ordinal, frame in self._frames:
            rank = int(ranks[ordinal]) if 0 <= ordinal < len(ranks) else -1
            if rank >= self._position:
                self._position = rank + 1
                return rank, frame
        return None

    def _start_again(self) -> None:
        if self._careful:
            self._restarts += 1
            self._bad = self._key_rank
            self._seekable = self._seekable and self._restarts < MAX_RESTARTS
        self._careful = True
        self._rewind()

    def _rewind(self) -> None:
        self._stack.close()
        self._container, self._stream = self._stack.enter_context(self._source.open())
        context = self._stream.codec_context
        context.thread_type = "AUTO"
        threads = 1 if self._careful else self._threads
        context.thread_count = limit_threads(threads, context.width * context.height)
        context.options = self._source.decoder_options
        self._held = None
        self._position = 0
        self._sought = False
        self._key_rank = -1
        self._damage: int | None = None
        """The position at which damage was met, unless decoding has started elsewhere since."""
        numbered = enumerate(packets(self._container, self._stream))
        self._frames: Iterator[Numbered] = self._decode(
            islice(numbered, self._timeline.start, None)
        )

    def _decode(self, numbered: Iterator[tuple[int, Packet[VideoStream]]]) -> Iterator[Numbered]:
        for ordinal, packet in numbered:
            packet.pts = packet.dts = ordinal
            yield from self._decode_packet(packet)
        yield from self._decode_packet(None)

    def _decode_packet(self, packet: Packet[VideoStream] | None) -> Iterator[Numbered]:
        try:
            frames: list[Any] = packet.decode() if packet else self._stream.decode(None)
        except MemoryError:
            raise
        except PYAV_ERRORS:
            self._note_damage()
            return
        while frames:
            frame = frames.pop(0)  # the list would keep it alive
            if frame.is_corrupt:
                self._note_damage()
            if frame.pts is not None:
                yield frame.pts, frame

    def _note_damage(self) -> None:
        if self._sought or not self._careful:
            raise _Unproven
        self._damage = self._position if self._damage is None else self._damage

    def _approach(self, rank: int) -> bool:
        """Seek to the last key frame before `rank`, if that skips enough frames or damage. False if
        it does neither."""
        key = self._timeline.key_before(rank)
        if not self._seekable or key is None or key.rank <= self._bad:
            return False
        damaged = self._damage is not None and key.rank >= self._damage
        if not damaged and key.rank - self._position < MIN_SEEK_FRAMES:
            return False
        self._held, self._damage = None, None
        self._sought, self._key_rank = True, key.rank
        for seek in self._landings or self._seeks():
            if self._find(key, seek):
                self._landings, self._position = [seek], key.rank
                if self._begins_with(key):
                    return True
                break
        self._seekable = False
        raise _Unproven

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

    def _find(self, key: Key, seek: Callable[[Key], None]) -> bool:
        """Whether the key frame's packet is found after the seek; decoding then starts there."""
        try:
            seek(key)
            after = packets(self._container, self._stream)
            for packet in islice(after, MAX_LANDING_PACKETS):
                if (packet.pos, packet.pts, packet.size) == (key.position, key.time, key.size):
                    self._frames = self._decode(enumerate(chain([packet], after), key.ordinal))
                    return True
        except MemoryError:
            raise
        except PYAV_ERRORS:
            pass
        return False

    def _begins_with(self, key: Key) -> bool:
        """Whether the key frame decodes before any frame that is shown after it: it does not where
        a picture is refreshed in parts (H.264's recovery points)."""
        ranks, frames = self._timeline.ranks, self._frames
        for ordinal, frame in frames:
            if ordinal == key.ordinal:
                self._frames = chain([(ordinal, frame)], frames)
                return bool(frame.key_frame)
            if ordinal >= len(ranks) or ranks[ordinal] > key.rank:
                return False
        return False
