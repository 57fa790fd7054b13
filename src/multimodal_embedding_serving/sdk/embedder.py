"""The verbs that `Engine` and the clients share: one signature each, whatever embeds.

`Embedder` blocks and `AsyncEmbedder` awaits. Both read the arguments and form the results; what
embeds is one method, which gets an `EmbedCall` and returns what it embedded by position.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, overload

from multimodal_embedding_serving.sdk.arguments import (
    ImageLike,
    OnError,
    Role,
    SegmentLike,
    VideoLike,
    explain_call,
)
from multimodal_embedding_serving.sdk.call import EmbedCall, read_call
from multimodal_embedding_serving.sdk.results import PartialResult, VideoVectors
from multimodal_embedding_serving.sdk.scorer import AsyncScorer, Scorer
from multimodal_embedding_serving.types import Vector, Vectors

SegmentConfig = Mapping[str, Any] | SegmentLike
Videos = list[VideoLike] | list[str] | list[Path] | list[bytes] | tuple[VideoLike, ...]
Embedded = tuple[Mapping[int, Vector] | Mapping[int, VideoVectors], int]
"""A vector (of a video: one per frame, with the frames) by position, and the dimension."""


class Embedder(Scorer):
    """Embeds and blocks meanwhile: `Engine` and `Client`."""

    @overload
    def embed(
        self,
        *,
        texts: str | Iterable[str] | None = None,
        images: ImageLike | Iterable[ImageLike] | None = None,
        video: VideoLike | None = None,
        segment: SegmentConfig | None = None,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> Vectors: ...

    @overload
    def embed(
        self,
        *,
        texts: None = None,
        images: None = None,
        video: Videos,
        segment: SegmentConfig | None = None,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> list[Vectors]: ...

    @overload
    def embed(
        self,
        *,
        texts: str | Iterable[str] | None = None,
        images: ImageLike | Iterable[ImageLike] | None = None,
        video: VideoLike | None = None,
        segment: SegmentConfig | None = None,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        on_error: Literal["skip"],
    ) -> PartialResult[Vectors]: ...

    @overload
    def embed(
        self,
        *,
        texts: None = None,
        images: None = None,
        video: Videos,
        segment: SegmentConfig | None = None,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        on_error: Literal["skip"],
    ) -> PartialResult[list[Vectors]]: ...

    @explain_call
    def embed(
        self,
        *,
        texts: str | Iterable[str] | None = None,
        images: ImageLike | Iterable[ImageLike] | None = None,
        video: VideoLike | Videos | None = None,
        segment: SegmentConfig | None = None,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """Embed texts, images or videos -> float32 [n, dimension], rows of unit length. Blocks.

        A string in `texts` is a query and a list holds documents, unless `role` says otherwise.
        `images` and `video` are paths, http(s) or data URLs or encoded bytes; an image may also be
        a PIL image or an array. `video` gives a vector for each frame that `segment` (the API's
        segment_config) samples; a list of videos gives a list of such arrays.

        With `on_error="skip"`, items that can't be embedded are left out and listed:
        -> PartialResult. Errors of the service itself, such as NotReady, are raised all the same.
        Raises TypeError for a wrong call, InvalidInput and NotFound, which name the argument.
        """
        call = read_call(
            texts=texts,
            images=images,
            video=video,
            segment=segment,
            role=role,
            instruction=instruction,
            dimensions=dimensions,
            on_error=on_error,
        )
        return call.result(*self._embed_call(call))

    @explain_call
    def embed_texts(
        self,
        texts: str | Iterable[str],
        *,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
    ) -> Vectors:
        """float32 [texts, dimension]. A string is embedded as a query, a list as documents."""
        call = read_call(
            texts=required(texts), role=role, instruction=instruction, dimensions=dimensions
        )
        vectors: Vectors = call.result(*self._embed_call(call))
        return vectors

    @explain_call
    def embed_images(
        self, images: ImageLike | Iterable[ImageLike], *, dimensions: int | None = None
    ) -> Vectors:
        """float32 [images, dimension]. A client reads an iterator of images batch by batch."""
        call = read_call(images=required(images), dimensions=dimensions)
        vectors: Vectors = call.result(*self._embed_call(call))
        return vectors

    @overload
    def embed_video(
        self,
        video: VideoLike,
        *,
        segment: SegmentConfig | None = None,
        dimensions: int | None = None,
    ) -> VideoVectors: ...

    @overload
    def embed_video(
        self,
        video: Videos,
        *,
        segment: SegmentConfig | None = None,
        dimensions: int | None = None,
    ) -> list[VideoVectors]: ...

    @explain_call
    def embed_video(
        self,
        video: VideoLike | Videos,
        *,
        segment: SegmentConfig | None = None,
        dimensions: int | None = None,
    ) -> Any:
        """One vector per sampled frame, with the frames; of a list of videos, a list of these."""
        call = read_call(video=required(video), segment=segment, dimensions=dimensions)
        found: Any = self._embed_call(call)[0]
        return call.videos(found)

    @abstractmethod
    def _embed_call(self, call: EmbedCall) -> Embedded: ...


class AsyncEmbedder(AsyncScorer):
    """Embeds while its event loop goes on: `Engine` and `AsyncClient`."""

    @overload
    async def aembed(
        self,
        *,
        texts: str | Iterable[str] | None = None,
        images: ImageLike | Iterable[ImageLike] | None = None,
        video: VideoLike | None = None,
        segment: SegmentConfig | None = None,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> Vectors: ...

    @overload
    async def aembed(
        self,
        *,
        texts: None = None,
        images: None = None,
        video: Videos,
        segment: SegmentConfig | None = None,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> list[Vectors]: ...

    @overload
    async def aembed(
        self,
        *,
        texts: str | Iterable[str] | None = None,
        images: ImageLike | Iterable[ImageLike] | None = None,
        video: VideoLike | None = None,
        segment: SegmentConfig | None = None,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        on_error: Literal["skip"],
    ) -> PartialResult[Vectors]: ...

    @overload
    async def aembed(
        self,
        *,
        texts: None = None,
        images: None = None,
        video: Videos,
        segment: SegmentConfig | None = None,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        on_error: Literal["skip"],
    ) -> PartialResult[list[Vectors]]: ...

    @explain_call
    async def aembed(
        self,
        *,
        texts: str | Iterable[str] | None = None,
        images: ImageLike | Iterable[ImageLike] | None = None,
        video: VideoLike | Videos | None = None,
        segment: SegmentConfig | None = None,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """Embed texts, images or videos -> float32 [n, dimension], rows of unit length.

        A string in `texts` is a query and a list holds documents, unless `role` says otherwise.
        `images` and `video` are paths, http(s) or data URLs or encoded bytes; an image may also be
        a PIL image or an array. `video` gives a vector for each frame that `segment` (the API's
        segment_config) samples; a list of videos gives a list of such arrays.

        With `on_error="skip"`, items that can't be embedded are left out and listed:
        -> PartialResult. Errors of the service itself, such as NotReady, are raised all the same.
        Raises TypeError for a wrong call, InvalidInput and NotFound, which name the argument.
        """
        call = await asyncio.to_thread(
            read_call,
            texts=texts,
            images=images,
            video=video,
            segment=segment,
            role=role,
            instruction=instruction,
            dimensions=dimensions,
            on_error=on_error,
        )
        return call.result(*await self._answer(call))

    @abstractmethod
    async def _answer(self, call: EmbedCall) -> Embedded: ...


def required(value: Any) -> Any:
    """A positional None is a wrong value, not an argument that is left out."""
    return [None] if value is None else value
