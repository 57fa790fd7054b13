"""`EmbeddingModel`: the SDK's interface for applications, on top of a loaded handler.

As in the SDK, failures raise RuntimeError. A missing file is also a FileNotFoundError and invalid
content also a ValueError, which some versions of the SDK raise and others wrap.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.compat.handlers import BaseEmbeddingModel, ImageLike
from multimodal_embedding_serving.errors import (
    EmbeddingError,
    InvalidInput,
    NotFound,
    UnsupportedMedia,
)
from multimodal_embedding_serving.inputs.kinds import FramesBatchInput
from multimodal_embedding_serving.media.encoded import decode_base64
from multimodal_embedding_serving.media.sampling import Segment as Sampling
from multimodal_embedding_serving.sdk.arguments import SEGMENT_KEYS
from multimodal_embedding_serving.settings import Settings

Segment = Mapping[str, Any]
"""segment_config, with the same keys as over HTTP."""


class EmbeddingModel:
    """The SDK's interface for applications. Vectors are lists of numbers here."""

    def __init__(self, model_handler: BaseEmbeddingModel) -> None:
        self.handler = model_handler
        self.model_config = model_handler.model_config
        self.device = model_handler.device

    @property
    def use_openvino(self) -> bool:
        """Whether the model runs with OpenVINO: once it is loaded, in fact."""
        return self.handler.use_openvino

    @property
    def supported_modalities(self) -> set[str]:
        """Some of text and image."""
        return set(self.handler.supported_modalities)

    def embed_query(self, text: str) -> list[float]:
        """Embed a query, with the model's query prompt if it has one."""
        with _sdk_errors():
            return _to_lists(self.handler.encode_text([self.handler.prepare_query(text)]))[0]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents -> one vector each, in order."""
        with _sdk_errors():
            return _to_lists(self.handler.encode_text(self.handler.prepare_documents(texts)))

    def get_embedding_length(self) -> int:
        """The length of a vector."""
        return self.handler.get_embedding_dim()

    def get_image_embedding_from_base64(self, image_base64: str) -> list[float]:
        """Embed an encoded image, in base64 or as a data URI."""
        with _sdk_errors():
            return self._embed(images=decode_base64(image_base64))[0]

    async def get_image_embedding_from_url(self, image_url: str) -> list[float]:
        """Fetch and embed an image."""
        return (await asyncio.to_thread(self._embed, images=image_url))[0]

    def get_video_embeddings(self, frames_batch: list[list[ImageLike]]) -> list[list[float]]:
        """One vector per frame, one video after the other."""
        frames = [frame for frames in frames_batch for frame in frames]
        if not frames:
            return []
        with _sdk_errors():
            return _to_lists(self.handler.encode_image(frames))

    def get_video_embedding_from_base64(
        self, video_base64: str, segment_config: Segment | None = None
    ) -> list[list[float]]:
        """One vector per sampled frame of an encoded video, in base64 or as a data URI."""
        with _sdk_errors():
            return self._embed(video=decode_base64(video_base64), segment=segment_config)

    async def get_video_embedding_from_url(
        self, video_url: str, segment_config: Segment | None = None
    ) -> list[list[float]]:
        """Fetch a video -> one vector per sampled frame."""
        return await asyncio.to_thread(self._embed, video=video_url, segment=segment_config)

    async def get_video_embedding_from_file(
        self, video_path: str, segment_config: Segment | None = None
    ) -> list[list[float]]:
        """One vector per sampled frame.

        A name that is not a file from here is looked up below the media roots, in their order.
        """
        video = await asyncio.to_thread(_find_video, video_path)
        return await asyncio.to_thread(self._embed, video=video, segment=segment_config)

    def get_video_sampled_embeddings(
        self, video_path: str, frame_interval: int = 1
    ) -> list[list[float]]:
        """One vector for every `frame_interval`-th frame, beginning with the first."""
        if frame_interval < 1:
            raise ValueError(f"frame_interval must be at least 1, not {frame_interval}")
        # One more than may be sampled, so that a longer video fails instead of being cut.
        count = Settings.from_env().max_frames + 1
        numbers = tuple(range(0, count * frame_interval, frame_interval))
        segment = Sampling(frame_indexes=None if frame_interval == 1 else numbers, num_frames=0)
        return self._embed(video=_find_video(video_path), segment=segment)

    async def get_video_embedding_from_frames_manifest(
        self, manifest_path: str
    ) -> list[list[float]]:
        """One vector per readable frame; the manifest must be below one of the media roots."""
        source = FramesBatchInput(type="frames_batch", frames_manifest_path=manifest_path)
        with _sdk_errors():
            return _to_lists((await self.handler.engine.embed_inputs([source]))[0].vectors)

    def check_health(self) -> bool:
        """Whether the model embeds a text."""
        try:
            return bool(self.embed_query("health check"))
        except (EmbeddingError, RuntimeError):
            return False

    def get_supported_modalities(self) -> list[str]:
        """Some of text and image, sorted."""
        return sorted(self.supported_modalities)

    def supports_text(self) -> bool:
        """Whether the model embeds texts."""
        return self.handler.supports_text()

    def supports_image(self) -> bool:
        """Whether the model embeds images."""
        return self.handler.supports_image()

    def supports_video(self) -> bool:
        """Whether the model embeds videos, which it does if it embeds images."""
        return self.handler.supports_video()

    def _embed(self, **source: Any) -> list[list[float]]:
        """Embed an image, or a video and its segment, of which Intel's SDK ignores unknown keys."""
        if isinstance(segment := source.get("segment"), Mapping):
            source["segment"] = {key: segment[key] for key in SEGMENT_KEYS if key in segment}
        with _sdk_errors():
            return _to_lists(self.handler.engine.embed(**source))


def _find_video(name: str) -> Path:
    """The file of that name, or of that name below a media root."""
    path = Path(name).expanduser()
    for place in (path, *(root / path for root in Settings.from_env().media_roots)):
        if place.is_file():
            return place
    raise MissingFile(f"there is no video file {name!r}, also not below EMBEDDING_MEDIA_ROOTS")


def _to_lists(rows: NDArray[np.float32]) -> list[list[float]]:
    lists: list[list[float]] = rows.tolist()
    return lists


class MissingFile(FileNotFoundError, RuntimeError):
    """A file that does not exist."""


class InvalidContent(ValueError, RuntimeError):
    """Input that is malformed, or media that can't be decoded."""


@contextmanager
def _sdk_errors() -> Iterator[None]:
    """Raise errors as the exceptions that the SDK's users catch."""
    try:
        yield
    except NotFound as error:
        raise MissingFile(str(error)) from error
    except (InvalidInput, UnsupportedMedia) as error:
        raise InvalidContent(str(error)) from error
    except EmbeddingError as error:
        raise RuntimeError(str(error)) from error
