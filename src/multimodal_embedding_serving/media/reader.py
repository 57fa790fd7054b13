"""Decodes frames of a surveyed video by their numbers, in ascending order.

Each packet carries its ordinal through the decoder in place of its time, so every frame names its
packet. A seek skips frames that are not needed. It is used only if the packet that it should reach
is found there, and only as long as nothing after it is damaged: else decoding starts at the first
frame, so that a number means the same image however it is reached.
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


class _Unproven(Exception):
    """What was decoded may differ from what decoding in order gives."""

    def __init__(self, *, careful: bool) -> None:
        self.careful = careful


def limit_threads(threads: int, pixels: int) -> int:
    """`threads` (0: FFmpeg's choice), or fewer if the frames that they hold would not fit.

    A pixel takes three bytes (ten-bit 4:2:0): from 5K on, fewer than 16 threads may fit.
    """
    limit = MAX_FRAME_BYTES // max(1, 3 * pixels) - MAX_REFERENCE_FRAMES
    if limit >= (threads or 16):
        return threads
    return max(1, min(threads or (os.cpu_count() or 1) + 1, limit))


class FrameReader:
    """A context manager. Call `frame` with ascending numbers.

    Entering it decodes the first frame, which has the number 0, and raises InvalidInput if there is
    none. A video whose order is not proven is decoded completely, once.
    """

    def __init__(self, source: Source, timeline: Timeline, *, threads: int = 0) -> None:
        self._source, self._timeline, self._threads = source, timeline, threads
        self._seekable = True
        self._careful = threads == 1
        """With one thread, an error costs only the packet at fault: with several, PyAV loses the
        frames of other threads with it."""
        self._landings: list[Callable[[Key], None]] = []
        self._stack = contextlib.ExitStack()
        self._base = 0

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
                while (item := self._next()) is not None:
                    if item[0] > rank:
                        self._held = item
                        return None
                    if item[0] == rank:
                        return item[1]
                return None
            except _Unproven as reason:
                self._start_again(reason)

    def _shown(self) -> array[int]:
        """Decode everything; the ordinals in the decoder's order."""
        while True:
            shown = array("q")
            try:
                for ordinal, _ in self._frames:
                    shown.append(ordinal)
                return shown
            except _Unproven as reason:
                self._start_again(reason)

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

    def _start_again(self, reason: _Unproven) -> None:
        self._seekable = False
        self._careful = self._careful or reason.careful
        self._rewind()

    def _rewind(self) -> None:
        self._stack.close()
        self._container, self._stream = self._stack.enter_context(self._source.open())
        context = self._stream.codec_context
        context.thread_type = "AUTO"
        threads = 1 if self._careful else self._threads
        context.thread_count = limit_threads(threads, context.width * context.height)
        context.options = self._source.decoder_options
        self._held: Numbered | None = None
        self._position = 0
        self._sought = False
        numbered = enumerate(packets(self._container, self._stream))
        self._frames: Iterator[Numbered] = self._decode(islice(numbered, self._timeline.start, None))

    def _decode(self, numbered: Iterator[tuple[int, Packet[VideoStream]]]) -> Iterator[Numbered]:
        for ordinal, packet in numbered:
            if packet.is_corrupt:
                self._check_damage()
            packet.pts = packet.dts = ordinal
            yield from self._decode_packet(packet)
        yield from self._decode_packet(None)

    def _decode_packet(self, packet: Packet[VideoStream] | None) -> Iterator[Numbered]:
        try:
            frames: list[Any] = packet.decode() if packet else self._stream.decode(None)
        except MemoryError:
            raise
        except PYAV_ERRORS:
            if not self._careful:
                raise _Unproven(careful=True) from None
            self._check_damage()
            return
        while frames:
            frame = frames.pop(0)  # the list would keep it alive
            if frame.is_corrupt:
                self._check_damage()
            if frame.pts is not None:
                yield frame.pts, frame

    def _check_damage(self) -> None:
        if self._sought:
            raise _Unproven(careful=False)

    def _approach(self, rank: int) -> None:
        """Seek to the last key frame before `rank`, if that skips enough frames."""
        key = self._timeline.key_before(rank)
        if not self._seekable or key is None or key.rank - self._position < MIN_SEEK_FRAMES:
            return
        self._sought = True
        for seek in self._landings or self._seeks():
            if self._land(key, seek):
                self._landings, self._position = [seek], key.rank
                return
        raise _Unproven(careful=False)

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

    def _land(self, key: Key, seek: Callable[[Key], None]) -> bool:
        """Whether the key frame's packet is found after the seek, and decodes before any frame that
        is shown after it."""
        self._held = None
        try:
            seek(key)
            after = packets(self._container, self._stream)
            for packet in islice(after, MAX_LANDING_PACKETS):
                if (packet.pos, packet.pts, packet.size) == (key.position, key.time, key.size):
                    numbered = enumerate(chain([packet], after), key.ordinal)
                    return self._begins_with(key, self._decode(numbered))
        except MemoryError:
            raise
        except (_Unproven, *PYAV_ERRORS):
            pass
        return False

    def _begins_with(self, key: Key, frames: Iterator[Numbered]) -> bool:
        ranks = self._timeline.ranks
        for ordinal, frame in frames:
            if ordinal == key.ordinal:
                self._frames = chain([(ordinal, frame)], frames)
                return bool(frame.key_frame)
            if ordinal >= len(ranks) or ranks[ordinal] > key.rank:
                return False
        return False
