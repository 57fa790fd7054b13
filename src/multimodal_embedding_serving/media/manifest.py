"""A frames manifest: JSON on disk that lists frames of one video, as images or by number."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from multimodal_embedding_serving.errors import InvalidInput, NotFound, TooLarge
from multimodal_embedding_serving.media.files import open_file

MAX_MANIFEST_BYTES = 64 << 20

Coordinate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ManifestFrame(BaseModel):
    """One frame, or one detected crop of a frame. Unknown keys are ignored."""

    frame_number: int = Field(ge=0)
    timestamp: float = Field(ge=0, allow_inf_nan=False)
    image_path: str | None = None
    type: Literal["full_frame", "detected_crop"] = "full_frame"
    frame_interval: float | None = None
    is_detected_crop: bool | None = None
    detection_confidence: float | None = Field(default=None, ge=0, le=1)
    crop_bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = None
    """x1, y1, x2, y2 in pixels of the frame; used if the crop has no image of its own."""
    crop_index: int | None = None

    @field_validator("image_path")
    @classmethod
    def empty_is_none(cls, value: str | None) -> str | None:
        return value or None


class Manifest(BaseModel):
    """The keys of a manifest that the service reads; others are the caller's metadata."""

    frames: Annotated[list[ManifestFrame], Field(min_length=1, fail_fast=True)]
    all_frame_metadata: Annotated[list[ManifestFrame], Field(fail_fast=True)] | None = None
    """Frames and crops with their image files, as the data preparation of Intel's applications
    writes them beside deduplicated `frames`; None unless an entry names an image."""
    video_path: str | None = None

    @field_validator("all_frame_metadata", mode="before")
    @classmethod
    def only_with_images(cls, value: Any) -> Any:
        """Without an image, it is metadata about `frames` in a form of its own."""
        entries = value if isinstance(value, list) else []
        images = (each.get("image_path") for each in entries if isinstance(each, dict))
        return value if any(images) else None

    @property
    def entries(self) -> list[ManifestFrame]:
        """What to embed, one vector each."""
        return self.frames if self.all_frame_metadata is None else self.all_frame_metadata

    @model_validator(mode="after")
    def every_frame_has_a_source(self) -> Manifest:
        if self.video_path is None and self.all_frame_metadata is None:
            for index, frame in enumerate(self.frames):
                if frame.image_path is None:
                    raise ValueError(
                        f"frames[{index}] has no image_path, and there is no video_path"
                    )
        return self


def read_manifest(path: Path) -> Manifest:
    """Parse a manifest. Blocking.

    Raises NotFound, InvalidInput with the path of the invalid field, TooLarge above 64 MiB.
    """
    try:
        with os.fdopen(open_file(path), "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_MANIFEST_BYTES:
                raise TooLarge(
                    "the manifest is larger than the limit of 64 MiB", param="frames_manifest_path"
                )
            content = file.read()
    except OSError:
        raise NotFound("the manifest does not exist", param="frames_manifest_path") from None
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        keys = (f"[{key}]" if isinstance(key, int) else f".{key}" for key in first["loc"])
        field = "".join(keys).removeprefix(".")
        reason = first["msg"].removeprefix("Value error, ")
        message = f"invalid manifest: {field + ': ' if field else ''}{reason}"
        raise InvalidInput(message, param="frames_manifest_path") from None
