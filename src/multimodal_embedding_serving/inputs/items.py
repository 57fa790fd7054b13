"""What lies between an input and its tower: plans of raw items, and what planning needs.

A raw item is a text, encoded image bytes, a thunk that fetches them, or a frame that streams out
of a video; the tower prepares it on its threads. Planning is cheap: nothing is fetched, decoded
or opened on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput, NotFound, TooLarge
from multimodal_embedding_serving.inputs.media_access import Encoded, MediaAccess, is_url
from multimodal_embedding_serving.media.fetch import media_path
from multimodal_embedding_serving.media.image import ImageSource
from multimodal_embedding_serving.media.manifest import Manifest, ManifestFrame
from multimodal_embedding_serving.media.sampling import Segment
from multimodal_embedding_serving.media.stream import stream
from multimodal_embedding_serving.types import Modality

Role = Literal["query", "document"]
RGB = NDArray[np.uint8]
Load = Callable[[], Awaitable["bytes | Path | Encoded"]]


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
    """One input, ready to be embedded."""

    items: Sequence[Any] | AsyncGenerator[Any, None]
    count: int
    """Items, as admission counts them; for a video an estimate of its frames."""
    many: bool = True
    """The answer is a list of vectors."""
    video: bool = False
    pooled: bool = False
    """Answer the renormalised mean."""
    frames: list[FrameInfo] | None = None
    """Filled while the frames stream, in the order of the raws."""
    order: list[int] | None = None
    """Filled while the frames stream: the place of each raw in the answer; None: as they come."""
    skipped: list[Skipped] | None = None
    """None: an item's error is the request's. A list: frames that can't be read are left out."""


class Embeddable(Protocol):
    """What the engine embeds: a wire class below, or one of the in-process ones."""

    @property
    def modality(self) -> Modality: ...

    async def plan(self, media: MediaAccess) -> ItemBatch: ...


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts in one role. `many` False: the answer is one vector."""

    texts: Sequence[str | tuple[int, ...]]
    role: Role | None = None
    instruction: str | None = None
    many: bool = True
    modality: ClassVar[Modality] = "text"

    async def plan(self, media: MediaAccess) -> ItemBatch:
        media.check_count(len(self.texts))
        for index, text in enumerate(self.texts):
            if len(text) > media.max_text_chars:
                message = f"the text is longer than {media.max_text_chars} characters"
                raise TooLarge(message, index=index if self.many else None)
        words = [TextItem(text, self.role, self.instruction) for text in self.texts]
        return ItemBatch(items=words, count=len(words), many=self.many)


@dataclass(frozen=True, slots=True)
class Images:
    """Images that the process holds: bytes, PIL images, arrays, paths, URLs (http or data)."""

    images: Sequence[ImageSource | Path | str]
    modality: ClassVar[Modality] = "image"

    async def plan(self, media: MediaAccess) -> ItemBatch:
        media.check_count(len(self.images))
        items = [self._raw(image, media) for image in self.images]
        return ItemBatch(items=items, count=len(items))

    def _raw(self, image: ImageSource | Path | str, media: MediaAccess) -> Any:
        if isinstance(image, str):
            return media.fetch_image(image) if is_url(image) else Path(image)
        return image


@dataclass(frozen=True, slots=True)
class Video:
    """A video that the process holds (bytes, path, URL) or a promise of one."""

    source: Load | bytes | Path | str
    segment: Segment
    modality: ClassVar[Modality] = "image"

    async def plan(self, media: MediaAccess) -> ItemBatch:
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

    async def stream(self, media: MediaAccess, seen: list[FrameInfo]) -> AsyncGenerator[RGB, None]:
        """The frames' pixels; `seen` learns which they are, each before it is yielded."""
        video = media.open_video(await self._load(media), self.segment)
        run = stream(video.frames, media.decoders.threads, ahead=media.ahead, stop=video.stop)
        async with aclosing(run) as frames:
            async for frame in frames:
                seen.append(FrameInfo(frame.index, round(frame.timestamp, 6)))
                yield frame.rgb

    async def _load(self, media: MediaAccess) -> bytes | Path | Encoded:
        if callable(self.source):
            return await self.source()
        if isinstance(self.source, str):
            return (
                await media.fetch_video(self.source) if is_url(self.source) else Path(self.source)
            )
        return self.source


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

    async def plan(self, media: MediaAccess) -> ItemBatch:
        count = len(self.manifest.frames)
        if count > media.videos.max_frames:
            raise TooLarge(f"the manifest lists more than {media.videos.max_frames} frames")
        plan = ItemBatch(items=(), count=count, video=True, frames=[], order=[], skipped=[])
        plan.items = self._raws(media, plan)
        return plan

    async def _raws(self, media: MediaAccess, plan: ItemBatch) -> AsyncGenerator[Any, None]:
        wanted: dict[int, list[tuple[int, ManifestFrame]]] = {}
        for place, entry in enumerate(self.manifest.frames):
            if entry.image_path is None:
                wanted.setdefault(entry.frame_number, []).append((place, entry))
                continue
            try:
                path = await asyncio.to_thread(media_path, entry.image_path, media.roots)
            except NotFound as error:
                _skip(plan, entry, error)
            except EmbeddingError as error:
                raise error.at(place) from None
            else:
                _note(plan, place, entry)
                yield path
        if wanted:
            async with aclosing(self._cut(media, plan, wanted)) as frames:
                async for frame in frames:
                    yield frame

    async def _cut(
        self,
        media: MediaAccess,
        plan: ItemBatch,
        wanted: dict[int, list[tuple[int, ManifestFrame]]],
    ) -> AsyncGenerator[RGB, None]:
        """The wanted frames and crops of the video; an error of the video skips what is left."""
        failure: EmbeddingError = InvalidInput("the video has no such frame")
        # num_frames=1: what the sampling contract falls back to if no number lies in the video
        segment = Segment(num_frames=1, frame_indexes=tuple(sorted(wanted)))
        seen: list[FrameInfo] = []
        video = Video(partial(self._path, media), segment)
        try:
            async with aclosing(video.stream(media, seen)) as frames:
                async for rgb in frames:
                    for place, entry in wanted.pop(seen[-1].index, ()):
                        part = _crop(rgb, entry)
                        if part.size:
                            _note(plan, place, entry)
                            yield part
                        else:
                            _skip(plan, entry, InvalidInput("crop_bbox lies outside the frame"))
        except EmbeddingError as error:
            failure = error
        for entries in wanted.values():
            for _, entry in entries:
                _skip(plan, entry, failure)

    async def _path(self, media: MediaAccess) -> Path:
        return await asyncio.to_thread(media_path, self.manifest.video_path or "", media.roots)


def _note(plan: ItemBatch, place: int, entry: ManifestFrame) -> None:
    if plan.frames is not None and plan.order is not None:
        plan.frames.append(FrameInfo(entry.frame_number, entry.timestamp))
        plan.order.append(place)


def _skip(plan: ItemBatch, entry: ManifestFrame, error: EmbeddingError) -> None:
    if plan.skipped is not None:
        plan.skipped.append(Skipped(entry.frame_number, error))


def _crop(rgb: RGB, entry: ManifestFrame) -> RGB:
    if entry.crop_bbox is None:
        return rgb
    left, top, right, bottom = (int(edge) for edge in entry.crop_bbox)
    return rgb[top:bottom, left:right]
