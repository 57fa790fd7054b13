"""Videos decoded in processes that may crash, hang or be killed: that is their request's error.

A process serves one video after the other. Whatever befalls it, or its video, it is killed and the
next video gets a fresh one. Elsewhere than on Linux videos are decoded in this process.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import Empty

from multimodal_embedding_serving.errors import (
    DeadlineExceeded,
    EmbeddingError,
    InvalidInput,
    NotFound,
    NotReady,
    TooLarge,
    UnsupportedMedia,
)
from multimodal_embedding_serving.media.channel import Message
from multimodal_embedding_serving.media.decoder_handle import Decoder
from multimodal_embedding_serving.media.encoded import Encoded
from multimodal_embedding_serving.media.ring import Ring, seal
from multimodal_embedding_serving.media.sampling import Frame, Segment, VideoLimits, source_size

ATTEMPTS = 3
"""Processes that may be gone before they have taken a video."""
NO_PROCESS = "the process that decodes videos can't be started"
LOOK_UP = 0.5
"""Seconds after which one who waits for a slot looks whether that still makes sense."""
REFUSALS: dict[str, type[EmbeddingError]] = {
    each.__name__: each for each in (InvalidInput, NotFound, TooLarge, UnsupportedMedia)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLimits:
    memory: int = 2 << 30
    """Bytes of address space above those of a process that has just started."""
    seconds: float = 300.0
    """That one video may keep its process, not counting the time that its frames are waited for."""
    cpu_seconds: float = 3600.0
    """CPU time of one video, on all its threads."""


class DecoderPool:
    """The processes, the threads that wait for them, and the videos that they decode.

    A process is started by the first video that finds none idle, and replaced at once when it is
    lost, so that the next video does not wait for it to start.
    """

    def __init__(self, count: int, slots: int, limits: DecoderLimits | None = None) -> None:
        """`count` videos at a time; `slots`: decoded frames of one video that may wait."""
        self.threads = ThreadPoolExecutor(count, "video")
        self.slots, self.limits = slots, limits or DecoderLimits()
        self._lock = threading.Lock()
        self._idle: list[Decoder] = []
        self._busy: dict[Decoding, Decoder] = {}
        self._closed = False

    @property
    def pids(self) -> list[int]:
        with self._lock:
            return [each.pid for each in (*self._busy.values(), *self._idle)]

    def take(self, decoding: Decoding) -> Decoder:
        """A process for this video alone; NotReady once closed or stopped."""
        while True:
            with self._lock:
                decoder = self._idle.pop() if self._idle else None
            decoder = decoder or self._start()
            with self._lock:
                refused = self._closed or decoding.stopped
                if not refused and decoder.alive:
                    self._busy[decoding] = decoder
                    return decoder
            decoder.close()
            if refused:
                raise NotReady("the model is closed")

    def put_back(self, decoding: Decoding) -> None:
        with self._lock:
            decoder = self._busy.pop(decoding)
            if decoder.free and not self._closed:
                self._idle.append(decoder)
                return
        decoder.close()
        with suppress(NotReady):  # the next video will say so
            self._keep(self._start())

    def _keep(self, decoder: Decoder) -> None:
        """For the next video, unless there is one already."""
        with self._lock:
            if not self._closed and not self._idle:
                self._idle.append(decoder)
                return
        decoder.close()

    def _start(self) -> Decoder:
        try:
            return Decoder(self.limits.memory)
        except OSError:
            raise NotReady(NO_PROCESS) from None

    def stop(self, decoding: Decoding) -> None:
        with self._lock:
            decoding.stopped = True
            if decoding in self._busy:
                self._busy[decoding].kill()

    def close(self) -> None:
        """Kill what runs; what waits is dropped."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for decoding, decoder in self._busy.items():
                decoding.stopped = True
                decoder.kill()
        for decoder in idle:
            decoder.close()
        self.threads.shutdown(wait=False, cancel_futures=True)


class Decoding:
    """One video on its way: `frames` runs on a thread, `stop` may be called from any other."""

    def __init__(
        self,
        decoders: DecoderPool,
        source: bytes | Path | Encoded,
        segment: Segment,
        limits: VideoLimits,
        *,
        threads: int = 0,
        received: Callable[[int], None] = lambda size: None,
    ) -> None:
        """Base64 is decoded on the thread that `frames` runs on; `received(bytes)` counts it."""
        self._decoders, self._source, self._received_bytes = decoders, source, received
        self._segment, self._limits, self._threads = segment, limits, threads
        self.seconds_left = decoders.limits.seconds
        """That its process may still keep it waiting."""
        self._ring: Ring | None = None
        self._due: set[int] = set()
        self.stopped = False

    def stop(self) -> None:
        """End it, whatever it does: its process is killed if it has one."""
        self._decoders.stop(self)

    def frames(self) -> Generator[Frame, None, None]:
        """As `read_frames`, but frames are read only, and must be let go: the next ones may need
        their room.

        Raises InvalidInput too where the video breaks its process, DeadlineExceeded where it takes
        too long, NotReady where no process can be had.
        """
        if sys.platform != "linux":
            from multimodal_embedding_serving.media.video import read_frames

            yield from read_frames(
                self._video(), self._segment, self._limits, threads=self._threads
            )
            return
        source = open_source(self._video(), self._limits)
        try:
            for _ in range(ATTEMPTS):
                decoder = self._decoders.take(self)
                try:
                    if self._begin(decoder, source):
                        yield from self._received(decoder)
                        return
                finally:
                    self._decoders.put_back(self)
        finally:
            os.close(source)
        raise NotReady(NO_PROCESS)

    def _video(self) -> bytes | Path:
        source = self._source
        if isinstance(source, Encoded):
            source = source.decode(self._limits.max_bytes, "video")
        if isinstance(source, bytes):
            self._received_bytes(len(source))
        return source

    def _begin(self, decoder: Decoder, source: int) -> bool:
        """Hand the video over; False where the process was gone before it saw it."""
        decoder.free = False
        video = {
            "segment": asdict(self._segment),
            "limits": asdict(self._limits),
            "threads": self._threads,
            "cpu_seconds": self._decoders.limits.cpu_seconds,
        }
        try:
            decoder.channel.send(video, file=source, seconds=self.seconds_left)
            return "taken" in self._hear(decoder)
        except TimeoutError:
            raise self._too_late() from None
        except ConnectionError:
            return False

    def _received(self, decoder: Decoder) -> Generator[Frame, None, None]:
        try:
            while True:
                self._offer(decoder)
                message = self._hear(decoder)
                if "room" in message:
                    self._make_room(decoder, int(message["room"]))
                elif "slot" in message:
                    yield self._frame(message)
                else:
                    decoder.free = message.get("again") is True
                    return self._close_with(message)
        except TimeoutError:
            raise self._too_late() from None
        except (ConnectionError, KeyError, TypeError, ValueError, OverflowError):
            if self.stopped:
                raise NotReady("the model is closed") from None
            raise InvalidInput("the video can't be decoded: it breaks the decoder") from None

    def _hear(self, decoder: Decoder) -> Message:
        started = time.monotonic()
        try:
            return decoder.channel.receive(self.seconds_left)
        finally:
            self.seconds_left = max(0.001, self.seconds_left - (time.monotonic() - started))

    def _offer(self, decoder: Decoder) -> None:
        """Tell the process which slots are free; where it has none, wait for one."""
        if self._ring is None:
            return
        free = self._ring.free
        while not free.empty() or not self._due:
            try:
                slot = free.get(timeout=LOOK_UP)
            except Empty:
                if self.stopped or not decoder.alive:
                    raise ConnectionError("nobody fills the slots any more") from None
                continue
            decoder.channel.send({"slot": slot}, seconds=self.seconds_left)
            self._due.add(slot)

    def _make_room(self, decoder: Decoder, slot_bytes: int) -> None:
        if not 0 < slot_bytes <= 3 * self._limits.max_side**2:
            raise ValueError("no frame has this size")
        try:
            self._ring, self._due = Ring(slot_bytes, self._decoders.slots), set()
        except OSError:
            raise NotReady("there is no memory for the video's frames") from None
        try:
            room = {"slot_bytes": self._ring.slot_bytes}
            decoder.channel.send(room, file=self._ring.file, seconds=self.seconds_left)
        finally:
            self._ring.close_file()

    def _frame(self, message: Message) -> Frame:
        slot, height, width = (int(message[key]) for key in ("slot", "height", "width"))
        ring = self._ring
        if ring is None or slot not in self._due or min(height, width) < 1:
            raise ValueError("no frame is due there")
        if height * width * 3 > ring.slot_bytes:
            raise ValueError("the frame is larger than its slot")
        self._due.remove(slot)
        index, timestamp = int(message["index"]), float(message["timestamp"])
        return Frame(index, timestamp, ring.frame(slot, height, width))

    def _close_with(self, message: Message) -> None:
        if "end" not in message:
            param = message.get("param")
            raise REFUSALS[message["error"]](
                str(message["message"]), param=None if param is None else str(param)
            )

    def _too_late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the video is not decoded after {self._decoders.limits.seconds:g} s"
        )


def open_source(source: bytes | Path, limits: VideoLimits) -> int:
    """An open file that holds the video and that nobody can change: bytes go to memory without a
    name, and never to a disk. Raises TooLarge, NotFound, InvalidInput (empty)."""
    if isinstance(source, Path):
        return _open_file(source, limits)
    source_size(source, limits)
    try:
        file = os.memfd_create("video", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:
        raise NotReady("no more files can be opened") from None
    try:
        left = memoryview(source)
        while left:
            left = left[os.write(file, left) :]
        seal(file, contents=True)
    except OSError:
        os.close(file)
        raise NotReady("there is no memory for the video") from None
    return file


def _open_file(path: Path, limits: VideoLimits) -> int:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would block
    except OSError:
        raise NotFound("the video file does not exist") from None
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise NotFound("the path names no regular file")
        source_size(file, limits)
    except EmbeddingError:
        os.close(file)
        raise
    return file
