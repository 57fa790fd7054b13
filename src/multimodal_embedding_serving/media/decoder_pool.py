"""A pool of decoder processes: if one crashes, hangs or is killed, only its own request fails.

A process decodes one input after another. After any failure it is killed, and the next input gets
a new one. On systems other than Linux, videos are decoded in this process.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
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
from multimodal_embedding_serving.media.decoder_handle import Decoder, Kind
from multimodal_embedding_serving.media.encoded import Encoded
from multimodal_embedding_serving.media.files import open_file
from multimodal_embedding_serving.media.ring import Ring, sealed_file
from multimodal_embedding_serving.media.sampling import (
    Frame,
    MissingFrame,
    Segment,
    VideoLimits,
    source_size,
)

MAX_ATTEMPTS = 3
"""Processes that may exit before they accept an input."""
NO_PROCESS = "could not start a decoder process; retry later"
SLOT_POLL_SECONDS = 0.5
"""While waiting for a slot, how often to check that the decoder is alive and not stopped."""
ERRORS_BY_NAME: dict[str, type[EmbeddingError]] = {
    each.__name__: each for each in (InvalidInput, NotFound, TooLarge, UnsupportedMedia)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderLimits:
    memory: int = 2 << 30
    """Bytes of address space, beyond what a newly started process has."""
    seconds: float = 300.0
    """For one input, not counting the time that its process waits for the service."""
    cpu_seconds: float = 3600.0
    """For one input: CPU time of all its threads."""


class DecoderPool:
    """The processes, the threads that wait for them, and the inputs that they decode.

    A process is started for an input if none is idle. One that is lost is replaced at once, so that
    the next input need not wait for a process to start.
    """

    def __init__(
        self, count: int, slots: int, limits: DecoderLimits | None = None, *, kind: Kind = "video"
    ) -> None:
        """Decode `count` videos at a time; up to `slots` decoded frames of each may be buffered."""
        self.threads = ThreadPoolExecutor(count, "video")
        self.slots, self.limits, self._kind = slots, limits or DecoderLimits(), kind
        self._lock = threading.Lock()
        self._idle: list[Decoder] = []
        self._busy: dict[DecoderJob, Decoder] = {}
        self._closed = False

    @property
    def pids(self) -> list[int]:
        with self._lock:
            return [each.pid for each in (*self._busy.values(), *self._idle)]

    def take(self, job: DecoderJob) -> Decoder:
        """Reserve a process for this input. Raises NotReady if the pool or the job is stopped."""
        while True:
            with self._lock:
                decoder = self._idle.pop() if self._idle else None
            decoder = decoder or self._start()
            with self._lock:
                stopped = self._closed or job.stopped
                if not stopped and decoder.alive:
                    self._busy[job] = decoder
                    return decoder
            decoder.close()
            if stopped:
                raise NotReady("the model is closed")

    def put_back(self, job: DecoderJob) -> None:
        with self._lock:
            decoder = self._busy.pop(job)
            if decoder.free and not self._closed:
                self._idle.append(decoder)
                return
        decoder.close()
        with suppress(NotReady):  # the next input reports it
            self._add_idle(self._start())

    def _add_idle(self, decoder: Decoder) -> None:
        """Keep a process for the next input, unless one is idle already."""
        with self._lock:
            if not self._closed and not self._idle:
                self._idle.append(decoder)
                return
        decoder.close()

    def _start(self) -> Decoder:
        try:
            return Decoder(self._kind, self.limits.memory)
        except OSError:
            raise NotReady(NO_PROCESS) from None

    def stop(self, job: DecoderJob) -> None:
        with self._lock:
            job.stopped = True
            if job in self._busy:
                self._busy[job].kill()

    def close(self) -> None:
        """Kill running decoders and drop queued inputs."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            for job, decoder in self._busy.items():
                job.stopped = True
                decoder.kill()
        for decoder in idle:
            decoder.close()
        self.threads.shutdown(wait=False, cancel_futures=True)


class DecoderJob:
    """One input and its conversation with a process; subclasses know what they talk about."""

    kind: Kind

    def __init__(self, decoders: DecoderPool) -> None:
        self.decoders = decoders
        self.seconds_left = decoders.limits.seconds
        """Time left for its process to respond."""
        self.stopped = False

    def stop(self) -> None:
        """Stop decoding at once; kills the process if there is one. Any thread may call it."""
        self.decoders.stop(self)

    def submit(self, decoder: Decoder, message: Message, source: int) -> bool:
        """Send the input to the process; False if the process exited before it accepted it."""
        decoder.free = False
        message = {**message, "cpu_seconds": self.decoders.limits.cpu_seconds}
        with self.translate_timeout():
            try:
                decoder.channel.send(message, file=source, seconds=self.seconds_left)
                return "taken" in self.receive(decoder)
            except ConnectionError:
                return False

    def receive(self, decoder: Decoder) -> Message:
        started = time.monotonic()
        try:
            return decoder.channel.receive(self.seconds_left)
        finally:
            self.seconds_left = max(0.001, self.seconds_left - (time.monotonic() - started))

    def finish(self, decoder: Decoder, message: Message) -> None:
        """Read the closing message; raises the error that it contains. The process is free for the
        next input only if the message makes sense."""
        error = None
        if "end" not in message:
            param = message.get("param")
            error = ERRORS_BY_NAME[message["error"]](
                str(message["message"]), param=None if param is None else str(param)
            )
        decoder.free = message.get("again") is True
        if error is not None:
            raise error

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Raise what the client is told of a process that is gone, hangs or sends nonsense."""
        with self.translate_timeout():
            try:
                yield
            except (ConnectionError, KeyError, TypeError, ValueError, OverflowError):
                if self.stopped:
                    raise NotReady("the model is closed") from None
                raise InvalidInput(
                    f"could not decode the {self.kind}: the decoder crashed on it"
                ) from None

    @contextmanager
    def translate_timeout(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise DeadlineExceeded(
                f"the {self.kind} was not decoded within {self.decoders.limits.seconds:g} s "
                "(EMBEDDING_REQUEST_TIMEOUT_SEC)"
            ) from None


class Decoding(DecoderJob):
    """One video: `frames` runs on one thread."""

    kind = "video"

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
        """`frames` decodes base64 on its thread and calls `received` with their number."""
        super().__init__(decoders)
        self._source, self._on_received = source, received
        self._segment, self._limits, self._threads = segment, limits, threads
        self._ring: Ring | None = None
        self._due: set[int] = set()

    def frames(self) -> Generator[Frame | MissingFrame, None, None]:
        """Yield frames like `read_frames`, but as read-only arrays in shared memory. Callers must
        release them: later frames reuse their slots.

        Also raises InvalidInput if the decoder crashes on the video, DeadlineExceeded if decoding
        takes too long, and NotReady if no process can be started.
        """
        if sys.platform != "linux":
            from multimodal_embedding_serving.media.video import read_frames

            yield from read_frames(
                self._video(), self._segment, self._limits, threads=self._threads
            )
            return
        video = {
            "segment": asdict(self._segment),
            "limits": asdict(self._limits),
            "threads": self._threads,
        }
        source = open_source(self._video(), self._limits)
        try:
            for _ in range(MAX_ATTEMPTS):
                decoder = self.decoders.take(self)
                try:
                    if self.submit(decoder, video, source):
                        with self.translate_errors():
                            yield from self._receive_frames(decoder)
                        return
                finally:
                    self.decoders.put_back(self)
        finally:
            os.close(source)
        raise NotReady(NO_PROCESS)

    def _video(self) -> bytes | Path:
        source = self._source
        if isinstance(source, Encoded):
            source = source.decode(self._limits.max_bytes, "video")
        if isinstance(source, bytes):
            self._on_received(len(source))
        return source

    def _receive_frames(self, decoder: Decoder) -> Generator[Frame | MissingFrame, None, None]:
        while True:
            self._offer_slots(decoder)
            message = self.receive(decoder)
            if "room" in message:
                self._map_ring(decoder, int(message["room"]))
            elif "slot" in message:
                yield self._frame(message)
            elif "missing" in message:
                yield _missing(message["missing"])
            else:
                return self.finish(decoder, message)

    def _offer_slots(self, decoder: Decoder) -> None:
        """Send the numbers of free slots; if the process has none left, wait for one."""
        if self._ring is None:
            return
        free = self._ring.free
        while not free.empty() or not self._due:
            try:
                slot = free.get(timeout=SLOT_POLL_SECONDS)
            except Empty:
                if self.stopped or not decoder.alive:
                    raise ConnectionError("the decoder is gone") from None
                continue
            decoder.channel.send({"slot": slot}, seconds=self.seconds_left)
            self._due.add(slot)

    def _map_ring(self, decoder: Decoder, slot_bytes: int) -> None:
        if not 0 < slot_bytes <= 3 * self._limits.max_side**2:
            raise ValueError(f"a frame has {slot_bytes} bytes")
        try:
            self._ring, self._due = Ring(slot_bytes, self.decoders.slots), set()
        except OSError:
            raise NotReady("not enough memory for the video's frames; retry later") from None
        try:
            reply = {"slot_bytes": self._ring.slot_bytes}
            decoder.channel.send(reply, file=self._ring.file, seconds=self.seconds_left)
        finally:
            self._ring.close_file()

    def _frame(self, message: Message) -> Frame:
        slot, height, width = (int(message[key]) for key in ("slot", "height", "width"))
        ring = self._ring
        if ring is None or slot not in self._due or min(height, width) < 1:
            raise ValueError(f"no frame is due in slot {slot}")
        if height * width * 3 > ring.slot_bytes:
            raise ValueError("the frame is larger than its slot")
        self._due.remove(slot)
        index, timestamp = int(message["index"]), float(message["timestamp"])
        size = message["size"] and self._display_size(*map(int, message["size"]))
        return Frame(index, timestamp, ring.frame(slot, height, width), size)

    def _display_size(self, width: int, height: int) -> tuple[int, int]:
        if not 0 < min(width, height) <= max(width, height) <= self._limits.max_side:
            raise ValueError(f"a frame is shown at {width} x {height}")
        return width, height


def _missing(message: Message) -> MissingFrame:
    return MissingFrame(int(message["index"]), float(message["timestamp"]), str(message["error"]))


def open_source(source: bytes | Path, limits: VideoLimits) -> int:
    """Open the video as a file descriptor. Bytes go to a sealed file in memory, never to a disk.
    Raises TooLarge, NotFound, InvalidInput (empty), NotReady (no memory or descriptors)."""
    if isinstance(source, Path):
        return _open_file(source, limits)
    source_size(source, limits)
    return sealed_file("video", source)


def _open_file(path: Path, limits: VideoLimits) -> int:
    try:
        file = open_file(path)
    except OSError:
        raise NotFound("the video file does not exist") from None
    try:
        source_size(file, limits)
    except EmbeddingError:
        os.close(file)
        raise
    return file
