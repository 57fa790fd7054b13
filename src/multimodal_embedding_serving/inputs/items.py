"""What an input expands to: the items that a tower embeds.

An item is a text, encoded image bytes, a promise that fetches them, or a frame that streams out of
a video; the tower prepares it on its threads. To expand an input is cheap: nothing is fetched,
decoded or opened on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput, NotFound, TooLarge
from multimodal_embedding_serving.inputs.media_access import (
    BelowRoots,
    MediaAccess,
    Remote,
    VideoSource,
    is_url,
)
from multimodal_embedding_serving.media.fetch import media_path
from multimodal_embedding_serving.media.image import ImageSource
from multimodal_embedding_serving.media.manifest import Manifest, ManifestFrame
from multimodal_embedding_serving.media.sampling import Segment
from multimodal_embedding_serving.media.stream import stream
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Modality

Role = Literal["query", "document"]
RGB = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TextItem:
    """A raw text: a string, or token ids that stand for one."""

    text: str | tuple[int, ...]
    role: Role | None = None
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """Which frame a vector stands for: its number in the video, its time in seconds (to the us)."""

    index: int
    timestamp: float


@dataclass(frozen=True, slots=True)
class Skipped:
    """A frame of a manifest that could not be read, and why."""

    frame_number: int
    error: EmbeddingError


@dataclass(slots=True, kw_only=True)
class ItemBatch:
    """One input, expanded to items."""

    items: Sequence[Any] | AsyncGenerator[Any, None]
    count: int
    """Items, as admission counts them; for a video an estimate of its frames."""
    many: bool = True
    """The answer is a list of vectors."""
    video: bool = False
    pooled: bool = False
    """Answer the renormalized mean."""
    frames: list[FrameInfo] | None = None
    """Filled while the frames stream, in the order of the items."""
    order: list[int] | None = None
    """Filled while the frames stream: the place of each item in the answer; None: as they come."""
    skipped: list[Skipped] | None = None
    """None: an item's error is the request's. A list: frames that can't be read are left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputLimits:
    """What one request may hold."""

    max_items: int
    max_text_chars: int

    @classmethod
    def of(cls, settings: Settings) -> InputLimits:
        return cls(max_items=settings.max_items, max_text_chars=settings.max_text_chars)


def too_many_items(count: int, limit: int) -> TooLarge:
    """The error of a request with more items than EMBEDDING_MAX_ITEMS allows."""
    message = f"the request has {count:,} items; the limit is {limit:,} (EMBEDDING_MAX_ITEMS)"
    return TooLarge(message, param="input")


class Embeddable(Protocol):
    """What the engine embeds: a kind of the wire (`kinds`), or one of the in-process ones below."""

    @property
    def modality(self) -> Modality: ...

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch: ...


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts in one role. `many` False: the answer is one vector."""

    texts: Sequence[str | tuple[int, ...]]
    role: Role | None = None
    instruction: str | None = None
    many: bool = True
    modality: ClassVar[Modality] = "text"

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        for index, text in enumerate(self.texts):
            if len(text) > limits.max_text_chars:
                message = f"the text is longer than {limits.max_text_chars} characters"
                raise TooLarge(message, index=index if self.many else None)
        words = [TextItem(text, self.role, self.instruction) for text in self.texts]
        return ItemBatch(items=words, count=len(words), many=self.many)


@dataclass(frozen=True, slots=True)
class Images:
    """Images that the process holds: bytes, PIL images, arrays, paths, URLs (http or data)."""

    images: Sequence[ImageSource | Path | str]
    modality: ClassVar[Modality] = "image"

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        items = [self._item(image, media) for image in self.images]
        return ItemBatch(items=items, count=len(items))

    def _item(self, image: ImageSource | Path | str, media: MediaAccess) -> Any:
        if isinstance(image, str):
            return media.fetch_image(image) if is_url(image) else Path(image)
        return image


@dataclass(frozen=True, slots=True)
class Video:
    """A video, wherever its bytes are."""

    source: VideoSource
    segment: Segment
    modality: ClassVar[Modality] = "image"

    @classmethod
    def of(cls, source: bytes | Path | str, segment: Segment) -> Video:
        """A caller's in this process: bytes, a path, or a URL."""
        if isinstance(source, str):
            return cls(Remote(source) if is_url(source) else Path(source), segment)
        return cls(source, segment)

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        frames: list[FrameInfo] = []
        pooled = self.segment.pooling == "mean"
        return ItemBatch(
            items=self.stream(media, frames),
            count=_expected(self.segment, media),
            many=not pooled,
            video=True,
            pooled=pooled,
            frames=frames,
        )

    async def stream(self, media: MediaAccess, infos: list[FrameInfo]) -> AsyncGenerator[RGB, None]:
        """The frames' pixels; which frame it is, is appended to `infos` before each is yielded."""
        video = media.open_video(await media.video_source(self.source), self.segment)
        run = stream(video.frames, media.decoders.threads, ahead=media.ahead, stop=video.stop)
        async with aclosing(run) as frames:
            async for frame in frames:
                infos.append(FrameInfo(frame.index, round(frame.timestamp, 6)))
                yield frame.rgb


def _expected(segment: Segment, media: MediaAccess) -> int:
    """Frames that a segment will hold, as far as its configuration tells: for admission."""
    if segment.frame_indexes:
        expected = float(len(segment.frame_indexes))
    elif segment.extraction_fps is not None and segment.clip_duration > 0:
        expected = segment.clip_duration * segment.extraction_fps
    else:
        expected = segment.num_frames or media.videos.max_frames
    return max(1, int(min(expected, media.videos.max_frames)))


@dataclass(frozen=True, slots=True)
class ManifestFrames:
    """A manifest's frames: first those that have a picture, then those that the video holds.

    `ItemBatch.order` puts the vectors back into the manifest's order.
    """

    manifest: Manifest
    modality: ClassVar[Modality] = "image"

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        count = len(self.manifest.frames)
        if count > media.videos.max_frames:
            raise TooLarge(f"the manifest lists more than {media.videos.max_frames} frames")
        batch = ItemBatch(items=(), count=count, video=True, frames=[], order=[], skipped=[])
        batch.items = self._items(media, batch)
        return batch

    async def _items(self, media: MediaAccess, batch: ItemBatch) -> AsyncGenerator[Any, None]:
        of_video: dict[int, list[tuple[int, ManifestFrame]]] = {}
        for place, entry in enumerate(self.manifest.frames):
            if entry.image_path is None:
                of_video.setdefault(entry.frame_number, []).append((place, entry))
                continue
            try:
                path = await asyncio.to_thread(media_path, entry.image_path, media.roots)
            except NotFound as error:
                _skip(batch, entry, error)
            except EmbeddingError as error:
                raise error.at(place) from None
            else:
                _note(batch, place, entry)
                yield path
        if of_video:
            async with aclosing(self._cut(media, batch, of_video)) as frames:
                async for frame in frames:
                    yield frame

    async def _cut(
        self,
        media: MediaAccess,
        batch: ItemBatch,
        entries: dict[int, list[tuple[int, ManifestFrame]]],
    ) -> AsyncGenerator[RGB, None]:
        """Frames and crops of the video, by frame number; an error of the video skips the rest."""
        failure: EmbeddingError = InvalidInput("frame_number is out of range for this video")
        # num_frames=1: what the sampling contract falls back to if no number lies in the video
        segment = Segment(num_frames=1, frame_indexes=tuple(sorted(entries)))
        infos: list[FrameInfo] = []
        video = Video(BelowRoots(self.manifest.video_path or ""), segment)
        try:
            async with aclosing(video.stream(media, infos)) as frames:
                async for rgb in frames:
                    for place, entry in entries.pop(infos[-1].index, ()):
                        part = _crop(rgb, entry)
                        if part.size:
                            _note(batch, place, entry)
                            yield part
                        else:
                            _skip(batch, entry, InvalidInput("crop_bbox lies outside the frame"))
        except EmbeddingError as error:
            failure = error
        for left in entries.values():
            for _, entry in left:
                _skip(batch, entry, failure)


def _note(batch: ItemBatch, place: int, entry: ManifestFrame) -> None:
    if batch.frames is not None and batch.order is not None:
        batch.frames.append(FrameInfo(entry.frame_number, entry.timestamp))
        batch.order.append(place)


def _skip(batch: ItemBatch, entry: ManifestFrame, error: EmbeddingError) -> None:
    if batch.skipped is not None:
        batch.skipped.append(Skipped(entry.frame_number, error))


def _crop(rgb: RGB, entry: ManifestFrame) -> RGB:
    if entry.crop_bbox is None:
        return rgb
    left, top, right, bottom = (int(edge) for edge in entry.crop_bbox)
    return rgb[top:bottom, left:right]
