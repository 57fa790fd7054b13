"""Where media come from: limits, the fetcher, pools; and how sources become bytes."""

from __future__ import annotations

from asyncio import AbstractEventLoop, get_running_loop, to_thread
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from multimodal_embedding_serving.batching.priority import PriorityPool
from multimodal_embedding_serving.errors import InvalidInput, TooLarge
from multimodal_embedding_serving.media.budget import DecodeBudget
from multimodal_embedding_serving.media.decoder_pool import DecoderLimits, DecoderPool, Decoding
from multimodal_embedding_serving.media.encoded import Encoded
from multimodal_embedding_serving.media.fetch import Fetcher, media_path
from multimodal_embedding_serving.media.image import (
    ImageLimits,
    ImageSource,
    JpegDecode,
    choose_jpeg_decode,
    image_limits,
)
from multimodal_embedding_serving.media.sampling import Segment, VideoLimits
from multimodal_embedding_serving.monitoring.request import RequestContext, current_request
from multimodal_embedding_serving.settings import Settings

MOST_VIDEOS = 4
"""Videos that are decoded at a time, each in a process of its own and on several threads."""
DECODE_BYTES = 512 << 20
"""What all pictures that are being decoded may take."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A video behind a URL, or within a data URI."""

    url: str


@dataclass(frozen=True, slots=True)
class BelowRoots:
    """A video's path as a client wrote it: allowed only below the media roots."""

    path: str


VideoSource = bytes | Path | Encoded | Remote | BelowRoots
"""Where a video comes from; a Path is one of this process and is read as it is."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A picture behind a URL, until a worker thread takes it: the request holds its bytes."""

    data: bytes
    account: RequestContext | None

    def release(self) -> bytes:
        """The picture, which the decoding budget answers for from now on."""
        if self.account is not None:
            self.account.give_back(len(self.data))
        return self.data


class Fetching(Protocol):
    """What gets the bytes behind a URL."""

    async def get(self, url: str, *, max_bytes: int) -> bytes: ...

    async def aclose(self) -> None: ...


class LoopFetchers:
    """One fetcher for each event loop: the connections that it keeps belong to their loop."""

    def __init__(self, make: Callable[[], Fetching]) -> None:
        self._make = make
        self._by_loop: WeakKeyDictionary[AbstractEventLoop, Fetching] = WeakKeyDictionary()

    async def get(self, url: str, *, max_bytes: int) -> bytes:
        loop = get_running_loop()
        if loop not in self._by_loop:
            self._by_loop[loop] = self._make()
        return await self._by_loop[loop].get(url, max_bytes=max_bytes)

    async def aclose(self) -> None:
        """Close the running loop's connections."""
        fetcher = self._by_loop.pop(get_running_loop(), None)
        if fetcher is not None:
            await fetcher.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaAccess:
    """What inputs need to get at media: limits, the fetcher, the folders that may be read."""

    images: ImageLimits
    videos: VideoLimits
    fetcher: Fetching
    roots: tuple[Path, ...]
    segment: Segment
    """The defaults of segment_config."""
    workers: PriorityPool
    """Threads that decode and resize images and tokenize texts."""
    decoders: DecoderPool
    """The processes that decode videos."""
    budget: DecodeBudget
    """The memory of pictures that are being decoded."""
    jpeg_decode: JpegDecode = "fast"
    threads: int = 0
    """FFmpeg threads per video; 0 = FFmpeg's choice."""
    ahead: int = 4
    """Decoded frames that may wait for the image tower."""

    received: Callable[[str, int], None]
    """Hears of encoded media: its kind (image or video) and its bytes."""

    @classmethod
    def from_settings(cls, settings: Settings, received: Callable[[str, int], None]) -> MediaAccess:
        return cls(
            images=image_limits(settings),
            videos=VideoLimits(
                max_bytes=settings.max_video_mb * 2**20,
                max_seconds=settings.max_video_seconds,
                max_frames=settings.max_frames,
            ),
            fetcher=LoopFetchers(
                partial(
                    Fetcher,
                    mode=settings.media_fetch,
                    allowed_hosts=settings.allowed_hosts,
                    proxy=settings.media_proxy,
                    timeout=settings.request_timeout,
                )
            ),
            roots=settings.media_roots,
            segment=Segment(
                start_offset=settings.start_offset,
                clip_duration=settings.clip_duration,
                num_frames=settings.num_frames,
            ),
            workers=PriorityPool(settings.worker_count),
            decoders=DecoderPool(
                min(settings.worker_count, MOST_VIDEOS),
                slots=(settings.frame_queue or 4) + settings.worker_count + 2,
                limits=DecoderLimits(seconds=settings.request_timeout),
            ),
            budget=DecodeBudget(DECODE_BYTES),
            jpeg_decode=choose_jpeg_decode(settings),
            threads=settings.decoder_workers,
            ahead=settings.frame_queue or 4,
            received=received,
        )

    def close(self) -> None:
        """Stop the threads, once what they do is done."""
        self.workers.shutdown(wait=False)
        self.decoders.close()

    def fetch_image(self, url: str) -> Any:
        """The item of an image's URL: a thunk, or the data that a data URI holds."""
        if url[:5].lower() == "data:":
            return Encoded(url)
        return partial(self._fetch_image, url)

    async def _fetch_image(self, url: str) -> Fetched:
        data = await self.fetcher.get(url, max_bytes=self.images.max_bytes)
        return Fetched(data, current_request.get())

    async def video_source(self, source: VideoSource) -> bytes | Path | Encoded:
        """Fetch a remote video, or find a path below the media roots.

        Raises RemoteFailed, Forbidden, NotFound, TooLarge.
        """
        match source:
            case Remote(url):
                if url[:5].lower() == "data:":
                    return Encoded(url)
                return await self.fetcher.get(url, max_bytes=self.videos.max_bytes)
            case BelowRoots(path):
                return await to_thread(media_path, path, self.roots)
        return source

    def image_source(self, item: Any) -> ImageSource:
        """An item -> what `decode_rgb` takes. Blocking: for worker threads."""
        source: ImageSource = item
        if isinstance(item, Encoded):
            source = item.decode(self.images.max_bytes, "image")
        elif isinstance(item, Fetched):
            source = item.release()
        elif isinstance(item, Path):
            source = _read(item, self.images.max_bytes)
        if isinstance(source, bytes):
            self.received("image", len(source))
        return source

    def open_video(self, source: bytes | Path | Encoded, segment: Segment) -> Decoding:
        """A video on its way through a decoder process."""
        return Decoding(
            self.decoders,
            source,
            segment,
            self.videos,
            threads=self.threads,
            received=partial(self.received, "video"),
        )


def is_url(text: str) -> bool:
    """Whether a string of a caller in this process names a remote or inline medium, not a path."""
    return text[:8].lower().startswith(("http://", "https://", "data:"))


def _read(path: Path, limit: int) -> bytes:
    try:
        if path.stat().st_size > limit:
            raise TooLarge(f"the file is larger than {limit} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"the file can't be read: {error.strerror}") from None
