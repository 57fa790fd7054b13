"""Access to media: limits, the fetcher, the pools, and how sources become bytes."""

from __future__ import annotations

import os
from asyncio import AbstractEventLoop, get_running_loop, to_thread
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from PIL import Image

from multimodal_embedding_serving.batching.priority import PriorityPool
from multimodal_embedding_serving.errors import InvalidInput, TooLarge
from multimodal_embedding_serving.media.budget import DecodeBudget, Reserve
from multimodal_embedding_serving.media.decoder_pool import DecoderLimits, DecoderPool, Decoding
from multimodal_embedding_serving.media.encoded import Encoded, is_data_uri
from multimodal_embedding_serving.media.fetch import Fetcher
from multimodal_embedding_serving.media.files import media_path, open_file
from multimodal_embedding_serving.media.image import (
    ImageLimits,
    ImageSource,
    JpegDecode,
    choose_jpeg_decode,
    decode_rgb,
    image_limits,
)
from multimodal_embedding_serving.media.image_decoding import ImageDecoding
from multimodal_embedding_serving.media.sampling import DisplayedFrame, Segment, VideoLimits
from multimodal_embedding_serving.monitoring.request import RequestContext, current_request
from multimodal_embedding_serving.settings import Settings

MAX_VIDEOS = 4
"""Videos decoded at a time, each in a process of its own and on several threads."""
DECODE_BYTES = 512 << 20
"""Memory limit for all images that are being decoded."""


@dataclass(frozen=True, slots=True)
class Remote:
    """A video at a URL, or in a data URI."""

    url: str


@dataclass(frozen=True, slots=True)
class BelowRoots:
    """A video's path as the client wrote it: allowed only below the media roots."""

    path: str


VideoSource = bytes | Path | Encoded | Remote | BelowRoots
"""Where a video comes from. A Path comes from this process and is not checked against the roots."""


@dataclass(frozen=True, slots=True)
class FetchedImage:
    """A fetched image until a worker thread takes it: its bytes count towards its request."""

    data: bytes
    request: RequestContext | None

    def release(self) -> bytes:
        """Return the bytes, which the decoding budget counts from now on."""
        if self.request is not None:
            self.request.release(len(self.data))
        return self.data


class MediaFetcher(Protocol):
    """Gets the bytes at a URL."""

    async def get(self, url: str, *, max_bytes: int) -> bytes: ...

    async def aclose(self) -> None: ...


class LoopFetchers:
    """One fetcher for each event loop, because connections belong to the loop that opened them."""

    def __init__(self, make: Callable[[], MediaFetcher]) -> None:
        self._make = make
        self._by_loop: WeakKeyDictionary[AbstractEventLoop, MediaFetcher] = WeakKeyDictionary()

    async def get(self, url: str, *, max_bytes: int) -> bytes:
        loop = get_running_loop()
        if loop not in self._by_loop:
            self._by_loop[loop] = self._make()
        return await self._by_loop[loop].get(url, max_bytes=max_bytes)

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        fetcher = self._by_loop.pop(get_running_loop(), None)
        if fetcher is not None:
            await fetcher.aclose()


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaAccess:
    """What inputs need to read media: limits, the fetcher, the folders that may be read, pools."""

    images: ImageLimits
    videos: VideoLimits
    fetcher: MediaFetcher
    roots: tuple[Path, ...]
    segment: Segment
    """Defaults of segment_config."""
    workers: PriorityPool
    """Threads that decode and resize images and tokenize texts."""
    decoders: DecoderPool
    """The processes that decode videos."""
    budget: DecodeBudget
    """Memory for the images that are being decoded."""
    image_decoders: DecoderPool | None = None
    """The processes that decode images; None: the workers decode them."""
    jpeg_decode: JpegDecode = "fast"
    threads: int = 0
    """FFmpeg threads per video; 0 = FFmpeg decides."""
    ahead: int = 4
    """Decoded frames of a video that may wait for the image tower."""
    on_media: Callable[[str, int], None]
    """Called with the kind (image or video) and size in bytes of all encoded media."""

    @classmethod
    def from_settings(cls, settings: Settings, on_media: Callable[[str, int], None]) -> MediaAccess:
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
                min(settings.worker_count, MAX_VIDEOS),
                slots=(settings.frame_queue or 4) + settings.worker_count + 2,
                limits=DecoderLimits(seconds=settings.request_timeout),
            ),
            budget=DecodeBudget(DECODE_BYTES),
            image_decoders=DecoderPool(
                1, slots=0, limits=DecoderLimits(seconds=settings.request_timeout), kind="image"
            )
            if settings.image_isolation
            else None,
            jpeg_decode=choose_jpeg_decode(settings),
            threads=settings.decoder_workers,
            ahead=settings.frame_queue or 4,
            on_media=on_media,
        )

    def close(self) -> None:
        """Stop the threads after their current tasks, and the decoder processes."""
        self.workers.shutdown(wait=False)
        self.decoders.close()
        if self.image_decoders is not None:
            self.image_decoders.close()

    def fetch_image(self, url: str) -> Any:
        """The item for an image's URL: a coroutine function, or the contents of a data URI."""
        if is_data_uri(url):
            return Encoded(url)
        return partial(self._fetch_image, url)

    def find_image(self, path: str) -> Any:
        """The item for an image's path as the client wrote it: a coroutine function that resolves
        it below the media roots, and raises Forbidden or NotFound."""
        return partial(to_thread, media_path, path, self.roots)

    async def _fetch_image(self, url: str) -> FetchedImage:
        data = await self.fetcher.get(url, max_bytes=self.images.max_bytes)
        return FetchedImage(data, current_request.get())

    async def video_source(self, source: VideoSource) -> bytes | Path | Encoded:
        """Fetch a remote video, or resolve a path below the media roots.

        Raises RemoteFailed, Forbidden, NotFound, TooLarge.
        """
        match source:
            case Remote(url):
                if is_data_uri(url):
                    return Encoded(url)
                return await self.fetcher.get(url, max_bytes=self.videos.max_bytes)
            case BelowRoots(path):
                return await to_thread(media_path, path, self.roots)
        return source

    def image_source(self, item: Any) -> ImageSource:
        """Convert an item to what `decode_rgb` takes. Blocks: for worker threads."""
        source: ImageSource = item
        if isinstance(item, Encoded):
            source = item.decode(self.images.max_bytes, "image")
        elif isinstance(item, FetchedImage):
            source = item.release()
        elif isinstance(item, DisplayedFrame):
            source = item.rgb
        elif isinstance(item, Path):
            source = _read(item, self.images.max_bytes)
        if isinstance(source, bytes):
            self.on_media("image", len(source))
        return source

    def decode_image(
        self, source: ImageSource, *, min_side: int, copied: bool, reserve: Reserve
    ) -> Image.Image:
        """`decode_rgb` with this service's limits, of an encoded image in a process of its own if
        EMBEDDING_IMAGE_ISOLATION is set. `min_side` matters only for fast decoding of JPEGs.
        Blocks: for worker threads."""
        min_side = min_side if self.jpeg_decode == "fast" else 0
        if self.image_decoders is None or not isinstance(source, bytes):
            return decode_rgb(
                source, self.images, min_side=min_side, copied=copied, reserve=reserve
            )
        decoding = ImageDecoding(self.image_decoders, self.images, min_side=min_side, copied=copied)
        return decoding.decode(source, reserve)

    def open_video(self, source: bytes | Path | Encoded, segment: Segment) -> Decoding:
        """Start decoding a video in a decoder process."""
        return Decoding(
            self.decoders,
            source,
            segment,
            self.videos,
            threads=self.threads,
            received=partial(self.on_media, "video"),
        )


def is_url(text: str) -> bool:
    """Whether a string from this process is an http, https or data URL, not a path."""
    return text[:8].lower().startswith(("http://", "https://", "data:"))


def _read(path: Path, limit: int) -> bytes:
    try:
        with os.fdopen(open_file(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise TooLarge(
                    f"the file has {size:,} bytes; the limit is {limit:,} (EMBEDDING_MAX_IMAGE_MB)"
                )
            return file.read()
    except OSError as error:
        raise InvalidInput(f"could not read the file: {error.strerror}") from None
