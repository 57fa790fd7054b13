"""The inputs that clients can send: one class per input kind, and their list `KINDS`.

Each class is the wire contract of its kind (see docs/api.md), names its modality, and expands to
items. The union that validates requests and the documented schema are built from the list.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from multimodal_embedding_serving.errors import InvalidInput
from multimodal_embedding_serving.inputs.items import (
    Embeddable,
    InputLimits,
    ItemBatch,
    ManifestFrames,
    Texts,
    Video,
)
from multimodal_embedding_serving.inputs.media_access import (
    BelowRoots,
    MediaAccess,
    Remote,
    VideoSource,
)
from multimodal_embedding_serving.media.encoded import Encoded
from multimodal_embedding_serving.media.files import media_path
from multimodal_embedding_serving.media.manifest import Manifest, read_manifest
from multimodal_embedding_serving.media.sampling import Segment
from multimodal_embedding_serving.types import Modality

T = TypeVar("T")

MAX_FRAME_INDEXES = 100_000

OneOrMany = str | Annotated[list[str], Field(min_length=1, fail_fast=True)]
"""Validation stops at the first bad item: reporting a million would take a gigabyte."""


class WireModel(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class SegmentConfig(WireModel):
    """Which frames of a video to embed. Every key is optional; null means the default."""

    startOffsetSec: float | None = Field(default=None, ge=0, allow_inf_nan=False)  # noqa: N815
    clip_duration: float | None = Field(default=None, allow_inf_nan=False)
    num_frames: int | None = Field(default=None, ge=0, le=2**31)
    extraction_fps: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        validation_alias=AliasChoices("extraction_fps", "fps"),
    )
    frame_indexes: list[Annotated[int, Field(ge=0, le=2**53)]] | None = Field(
        default=None, max_length=MAX_FRAME_INDEXES
    )
    pooling: Literal["mean"] | None = None
    pixel_aspect: Literal["display", "stored"] | None = None
    """Whether pixels that are not square are embedded as displayed (default) or as stored."""

    @field_validator("clip_duration")
    @classmethod
    def positive_or_to_the_end(cls, value: float | None) -> float | None:
        if value is not None and value <= 0 and value != -1:
            raise ValueError("must be positive, or -1 for the rest of the video")
        return value

    def segment(self, defaults: Segment) -> Segment:
        def choose(value: T | None, default: T) -> T:
            return default if value is None else value

        indexes = None if self.frame_indexes is None else tuple(self.frame_indexes)
        return Segment(
            start_offset=choose(self.startOffsetSec, defaults.start_offset),
            clip_duration=choose(self.clip_duration, defaults.clip_duration),
            num_frames=choose(self.num_frames, defaults.num_frames),
            extraction_fps=choose(self.extraction_fps, defaults.extraction_fps),
            frame_indexes=choose(indexes, defaults.frame_indexes),
            pooling=choose(self.pooling, defaults.pooling),
            pixel_aspect=choose(self.pixel_aspect, defaults.pixel_aspect),
        )


def read_segment(config: Mapping[str, Any] | None, defaults: Segment) -> Segment:
    """Parse the segment_config of an in-process call. Raises InvalidInput, which names the key."""
    try:
        return SegmentConfig.model_validate(config or {}).segment(defaults)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in ("segment", *first["loc"]))
        raise InvalidInput(f"{where}: {first['msg']}", param="segment") from None


class TextInput(WireModel):
    """A string is a query and returns one vector; a list holds documents and returns a list."""

    type: Literal["text"]
    text: OneOrMany
    modality: ClassVar[Modality] = "text"

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        if isinstance(self.text, str):
            return await Texts([self.text], "query", many=False).expand(media, limits)
        return await Texts(self.text, "document").expand(media, limits)


class ImageUrlInput(WireModel):
    type: Literal["image_url"]
    image_url: OneOrMany
    modality: ClassVar[Modality] = "image"

    def items(self, media: MediaAccess, limits: InputLimits) -> list[Any]:
        urls = _as_list(self.image_url)
        limits.check(len(urls))
        return [media.fetch_image(url) for url in urls]

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        items = self.items(media, limits)
        return ItemBatch(items=items, count=len(items), many=isinstance(self.image_url, list))


class ImageBase64Input(WireModel):
    type: Literal["image_base64"]
    image_base64: OneOrMany
    modality: ClassVar[Modality] = "image"

    def items(self, media: MediaAccess, limits: InputLimits) -> list[Any]:
        images = _as_list(self.image_base64)
        limits.check(len(images))
        return [Encoded(data) for data in images]

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        items = self.items(media, limits)
        return ItemBatch(items=items, count=len(items), many=isinstance(self.image_base64, list))


class ImageFileInput(WireModel):
    """An image file under one of the media roots (EMBEDDING_MEDIA_ROOTS), or a list of them."""

    type: Literal["image_file"]
    image_path: OneOrMany
    modality: ClassVar[Modality] = "image"

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        paths = _as_list(self.image_path)
        limits.check(len(paths))
        items = [media.find_image(path) for path in paths]
        return ItemBatch(items=items, count=len(items), many=isinstance(self.image_path, list))


class VideoFramesInput(WireModel):
    """Frames that the client has extracted: one vector each, in order."""

    type: Literal["video_frames"]
    video_frames: Annotated[
        list[Annotated[ImageUrlInput | ImageBase64Input, Field(discriminator="type")]],
        Field(min_length=1, fail_fast=True),
    ]
    modality: ClassVar[Modality] = "image"

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        limits.check(len(self.video_frames))
        items = [item for frame in self.video_frames for item in frame.items(media, limits)]
        return ItemBatch(items=items, count=len(items))


class VideoInput(WireModel, ABC):
    """Shared by the three video kinds, which define the source of the bytes."""

    segment_config: SegmentConfig | None = None
    modality: ClassVar[Modality] = "image"

    @property
    @abstractmethod
    def source(self) -> VideoSource: ...

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        segment = (self.segment_config or SegmentConfig()).segment(media.segment)
        return await Video(self.source, segment).expand(media, limits)


class VideoUrlInput(VideoInput):
    type: Literal["video_url"]
    video_url: str

    @property
    def source(self) -> Remote:
        return Remote(self.video_url)


class VideoBase64Input(VideoInput):
    type: Literal["video_base64"]
    video_base64: str

    @property
    def source(self) -> Encoded:
        return Encoded(self.video_base64)


class VideoFileInput(VideoInput):
    """A file under one of the media roots (EMBEDDING_MEDIA_ROOTS)."""

    type: Literal["video_file"]
    video_path: str

    @property
    def source(self) -> BelowRoots:
        return BelowRoots(self.video_path)


class FramesBatchInput(WireModel):
    """A manifest under one of the media roots: one vector per readable frame."""

    type: Literal["frames_batch"]
    frames_manifest_path: str
    modality: ClassVar[Modality] = "image"

    async def expand(self, media: MediaAccess, limits: InputLimits) -> ItemBatch:
        manifest = await asyncio.to_thread(self._read, media)
        return await ManifestFrames(manifest).expand(media, limits)

    def _read(self, media: MediaAccess) -> Manifest:
        return read_manifest(media_path(self.frames_manifest_path, media.roots))


KINDS: tuple[type[WireModel], ...] = (
    TextInput,
    ImageUrlInput,
    ImageBase64Input,
    ImageFileInput,
    VideoFramesInput,
    VideoUrlInput,
    VideoBase64Input,
    VideoFileInput,
    FramesBatchInput,
)
"""All input kinds. A new kind is added here and nowhere else."""

if TYPE_CHECKING:
    Input = Embeddable
else:
    Input = Annotated[reduce(or_, KINDS), Field(discriminator="type")]


def _as_list(one_or_many: str | list[str]) -> list[str]:
    return [one_or_many] if isinstance(one_or_many, str) else one_or_many
