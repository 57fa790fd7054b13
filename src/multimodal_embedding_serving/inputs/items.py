"""What an input expands to: the items that a tower embeds.

An item is a text, an encoded image, a coroutine function that fetches one, or a frame streamed from
a video; the tower preprocesses it on its threads. Expanding an input is cheap: nothing is fetched,
decoded or opened on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence, Sized
from contextlib import aclosing
from dataclasses import dataclass, field
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
    time_frames,
)
from multimodal_embedding_serving.media.files import media_path
from multimodal_embedding_serving.media.image import ImageSource
from multimodal_embedding_serving.media.manifest import Manifest, ManifestFrame
from multimodal_embedding_serving.media.sampling import DisplayedFrame, MissingFrame, Segment
from multimodal_embedding_serving.media.stream import stream
from multimodal_embedding_serving.monitoring.request import current_client
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Modality

Role = Literal["query", "document"]
RGB = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TextItem:
    """A text before preprocessing: a string, or the token ids of one."""

    text: str | tuple[int, ...]
    role: Role | None = None
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class FrameInfo:
    """The frame behind a vector: its number in the video, its time in seconds (to the us)."""

    index: int
    timestamp: float


@dataclass(frozen=True, slots=True)
class Skipped:
    """A frame that could not be decoded or read, and the reason."""

    frame_number: int
    timestamp: float
    """Seconds."""
    error: EmbeddingError


@dataclass(slots=True, kw_only=True)
class ItemBatch:
    """One input, expanded to items."""

    items: Sequence[Any] | AsyncGenerator[Any, None]
    count: int
    """The number of items; 0 if they are streamed."""
    many: bool = True
    """The response is a list of vectors, not a single one."""
    video: bool = False
    pooled: bool = False
    """Return the renormalized mean of the vectors."""
    frames: list[FrameInfo] | None = None
    """Filled as the frames stream, in the order of the items."""
    order: list[int] | None = None
    """Filled as the frames stream: each item's place in the response; None: in stream order."""
    skipped: list[Skipped] = field(default_factory=list)
    """Filled as the frames stream."""
    skip_errors: bool = False
    """An item that can't be read is skipped too; else it fails the request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputLimits:
    """Limits on one request."""

    max_items: int
    max_text_chars: int

    @classmethod
    def of(cls, settings: Settings) -> InputLimits:
        return cls(max_items=settings.max_items, max_text_chars=settings.max_text_chars)

    def check(self, count: int) -> None:
        """Raise TooLarge for more items than a request may have.

        Whatever makes objects of items calls this first: two million of them take seconds.
        """
        if count > self.max_items:
            raise TooLarge(
                f"the request has {count:,} items; the limit is {self.max_items:,} "
                "(EMBEDDING_MAX_ITEMS)",
                param="input",
            )

    def check_text(self, text: Sized) -> None:
        """Raise TooLarge for a text with more characters than a text may have."""
        if len(text) > self.max_text_chars:
            raise TooLarge(
                f"the text has {len(text):,} characters; the limit is "
                f"{self.max_text_chars:,} (EMBEDDING_MAX_TEXT_CHARS)"
            )


class Embeddable(Protocol):
    """What the engine embeds: a wire kind (`kinds`), or one of the in-process kinds below."""

    @property
    def modality(self) -> Modality: ...

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch: ...


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts in one role. `many=False`: the response is a single vector."""

    texts: Sequence[str | tuple[int, ...]]
    role: Role | None = None
    instruction: str | None = None
    many: bool = True
    modality: ClassVar[Modality] = "text"

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        limits.check(len(self.texts))
        for index, text in enumerate(self.texts):
            try:
                limits.check_text(text)
            except TooLarge as error:
                raise error.at(index) if self.many else error from None
        items = [TextItem(text, self.role, self.instruction) for text in self.texts]
        return ItemBatch(items=items, count=len(items), many=self.many)


@dataclass(frozen=True, slots=True)
class Images:
    """Images of this process: bytes, PIL images, arrays, paths, URLs (http, https or data)."""

    images: Sequence[ImageSource | Path | str]
    modality: ClassVar[Modality] = "image"

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        limits.check(len(self.images))
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
        """A video of this process: bytes, a path, or a URL."""
        if isinstance(source, str):
            return cls(Remote(source) if is_url(source) else Path(source), segment)
        return cls(source, segment)

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        frames: list[FrameInfo] = []
        pooled = self.segment.pooling == "mean"
        skipped: list[Skipped] = []
        return ItemBatch(
            items=self.stream(media, frames, skipped),
            count=0,
            many=not pooled,
            video=True,
            pooled=pooled,
            frames=frames,
            skipped=skipped,
        )

    async def stream(
        self, media: MediaAccess, infos: list[FrameInfo], skipped: list[Skipped]
    ) -> AsyncGenerator[RGB | DisplayedFrame, None]:
        """Yield the frames; append each frame's info to `infos` before yielding it, and each frame
        that can't be decoded to `skipped`."""
        video = media.open_video(await media.video_source(self.source), self.segment)
        decoded = time_frames(video.frames, media.on_stage)
        run = stream(decoded, media.decoders.threads, ahead=media.ahead, stop=video.stop)
        async with media.videos_decoded.slot(current_client()), aclosing(run) as frames:
            async for frame in frames:
                timestamp = round(frame.timestamp, 6)
                if isinstance(frame, MissingFrame):
                    skipped.append(Skipped(frame.index, timestamp, InvalidInput(frame.error)))
                    continue
                infos.append(FrameInfo(frame.index, timestamp))
                yield frame.rgb if frame.size is None else DisplayedFrame(frame.rgb, frame.size)


@dataclass(frozen=True, slots=True)
class ManifestFrames:
    """A manifest's frames: first those with an image file, then those that come from the video.

    `ItemBatch.order` restores the manifest's order.
    """

    manifest: Manifest
    modality: ClassVar[Modality] = "image"

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        count = len(self.manifest.entries)
        if count > media.videos.max_frames:
            limit = media.videos.max_frames
            raise TooLarge(
                f"the manifest lists {count:,} frames; the limit is {limit:,} "
                "(EMBEDDING_MAX_FRAMES)"
            )
        batch = ItemBatch(items=(), count=0, video=True, frames=[], order=[], skip_errors=True)
        batch.items = self._items(media, batch)
        return batch

    async def _items(self, media: MediaAccess, batch: ItemBatch) -> AsyncGenerator[Any, None]:
        video_entries: dict[int, list[tuple[int, ManifestFrame]]] = {}
        for place, entry in enumerate(self.manifest.entries):
            if entry.image_path is None and self.manifest.video_path is None:
                problem = "the entry has no image_path, and the manifest no video_path"
                _skip(batch, entry, InvalidInput(problem))
                continue
            if entry.image_path is None:
                video_entries.setdefault(entry.frame_number, []).append((place, entry))
                continue
            try:
                path = await asyncio.to_thread(media_path, entry.image_path, media.roots)
            except NotFound as error:
                _skip(batch, entry, error)
            except EmbeddingError as error:
                raise error.at(place) from None
            else:
                _add(batch, place, entry)
                yield path
        if video_entries:
            async with aclosing(self._read_video(media, batch, video_entries)) as frames:
                async for frame in frames:
                    yield frame

    async def _read_video(
        self,
        media: MediaAccess,
        batch: ItemBatch,
        entries: dict[int, list[tuple[int, ManifestFrame]]],
    ) -> AsyncGenerator[RGB | DisplayedFrame, None]:
        """Yield frames and crops of the video, by frame number; a video error skips the rest."""
        failure: EmbeddingError = InvalidInput("frame_number is out of range for this video")
        # num_frames=1: the sampling contract's fallback if no number is in the video's range
        segment = Segment(num_frames=1, frame_indexes=tuple(sorted(entries)))
        infos: list[FrameInfo] = []
        missing: list[Skipped] = []
        video = Video(BelowRoots(self.manifest.video_path or ""), segment)
        try:
            async with aclosing(video.stream(media, infos, missing)) as frames:
                async for frame in frames:
                    for place, entry in entries.pop(infos[-1].index, ()):
                        crop = _crop(frame, entry)
                        if crop is not None:
                            _add(batch, place, entry)
                            yield crop
                        else:
                            _skip(batch, entry, InvalidInput("crop_bbox is outside the frame"))
        except EmbeddingError as error:
            failure = error
        errors = {each.frame_number: each.error for each in missing}
        for number, group in entries.items():
            for _, entry in group:
                _skip(batch, entry, errors.get(number, failure))


def _add(batch: ItemBatch, place: int, entry: ManifestFrame) -> None:
    if batch.frames is not None and batch.order is not None:
        batch.frames.append(FrameInfo(entry.frame_number, entry.timestamp))
        batch.order.append(place)


def _skip(batch: ItemBatch, entry: ManifestFrame, error: EmbeddingError) -> None:
    batch.skipped.append(Skipped(entry.frame_number, entry.timestamp, error))


def _crop(frame: RGB | DisplayedFrame, entry: ManifestFrame) -> RGB | DisplayedFrame | None:
    """The part of the frame in crop_bbox, which counts stored pixels; None if it is empty."""
    if entry.crop_bbox is None:
        return frame
    rgb = frame.rgb if isinstance(frame, DisplayedFrame) else frame
    left, top, right, bottom = (int(edge) for edge in entry.crop_bbox)
    crop = rgb[top:bottom, left:right]
    if not crop.size:
        return None
    if not isinstance(frame, DisplayedFrame):
        return crop
    width, height = (
        max(1, round(part * shown / stored))
        for part, shown, stored in zip(crop.shape[1::-1], frame.size, rgb.shape[1::-1], strict=True)
    )
    return DisplayedFrame(crop, (width, height))
