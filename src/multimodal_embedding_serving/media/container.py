"""Opens an encoded video: recognizes its container and chooses its video track."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import av
from av.container import InputContainer
from av.stream import Discard, Disposition
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
TS_PACKETS = (188, 192, 204)
"""Bytes of a transport packet: plain, after four bytes of time stamp (AVCHD, Blu-ray), and before
sixteen bytes of error correction (DVB)."""
HEAD_BYTES = 8 * max(TS_PACKETS)
MIN_ALIGNED_PACKETS, MIN_UNALIGNED_PACKETS = 2, 5
"""Packets that prove a transport stream, if the file begins with one, or in the middle of one."""

PYAV_ERRORS = (
    av.FFmpegError, OSError, ValueError, LookupError, RuntimeError, ArithmeticError, MemoryError,
    AssertionError, EOFError,
)  # fmt: skip
"""What PyAV raises on bad bytes; their texts may contain file names and never leave this file."""


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
            demuxer = recognize(file.read(HEAD_BYTES))
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
    return "mpegts" if any(_is_transport_stream(head, size) for size in TS_PACKETS) else None


def _is_transport_stream(head: bytes, size: int) -> bool:
    """Whether a sync byte stands every `size` bytes, from some byte of the first packet on."""
    for start in range(min(size, len(head))):
        syncs = head[start::size]
        aligned = start == (4 if size == 192 else 0)
        needed = MIN_ALIGNED_PACKETS if aligned else MIN_UNALIGNED_PACKETS
        if len(syncs) >= needed and not syncs.strip(b"\x47"):
            return True
    return False


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
    """The track that FFmpeg prefers (above all, one that is marked as default), but no cover art
    and no thumbnails; no other stream is read."""
    covers = Disposition.attached_pic | Disposition.timed_thumbnails
    tracks = [each for each in container.streams.video if not each.disposition & covers]
    if not tracks:
        raise InvalidInput("the file contains no video stream")
    best = container.streams.best("video")
    default = (each for each in tracks if each.disposition & Disposition.default)
    chosen = [each for each in tracks if best is not None and each.index == best.index]
    selected = chosen[0] if chosen else next(default, tracks[0])
    for stream in container.streams:
        if stream.index != selected.index:
            stream.discard = Discard.all
    if selected.codec_context is None:
        raise InvalidInput("the video's codec is not supported")
    check_side(selected.width, selected.height, max_side)
    return selected


def check_side(width: int, height: int, max_side: int) -> None:
    if max(width, height) > max_side:
        raise TooLarge(f"the video has {width} x {height} pixels; the limit is {max_side} per side")
