"""The verbs that compare vectors: `classify`, `score` and `rerank`, whatever embeds.

They are built on what `Embedder` and `AsyncEmbedder` embed with. A model that scores a pair
of texts itself, and has no vectors, overrides `_scores` (`_ascores`) and nothing else.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from multimodal_embedding_serving.sdk.arguments import (
    ImageLike,
    SegmentLike,
    VideoLike,
    explain_call,
)
from multimodal_embedding_serving.sdk.call import EmbedCall
from multimodal_embedding_serving.sdk.results import Classification, Ranked
from multimodal_embedding_serving.sdk.scoring import (
    Query,
    ScoreCall,
    errors_of,
    read_classify,
    read_score,
)
from multimodal_embedding_serving.sdk.similarity import Activation, Calibration, Scores


class Scorer(ABC):
    """Scores and blocks meanwhile: `Engine` and `Client`."""

    @explain_call
    def classify(
        self,
        labels: Sequence[str],
        *,
        texts: str | Iterable[str] | None = None,
        images: ImageLike | Iterable[ImageLike] | None = None,
        video: VideoLike | Iterable[VideoLike] | None = None,
        template: str | Sequence[str] | None = None,
        activation: Activation | None = None,
        segment: Mapping[str, Any] | SegmentLike | None = None,
    ) -> Classification:
        """The probability of each label for each input. Blocks.

        `template` has `{}` where the label goes: "{}" by default for texts, and "a photo of a {}"
        for images and videos; of several, the vectors of a label are averaged. `activation` is
        softmax (the labels exclude each other) or sigmoid (they don't): by default the one that
        the model was trained with. A video is one input: the mean of its sampled frames.

        Raises TypeError for a wrong call, InvalidInput and NotFound, which name the argument.
        """
        call = read_classify(
            labels,
            template,
            activation,
            texts=texts,
            images=images,
            video=video,
            segment=segment,
        )
        with errors_of("labels", len(call.templates)):
            label_vectors, _ = self._embed_call(call.label_call)
        inputs, _ = self._embed_call(call.input_call)
        return call.result(label_vectors, inputs, self._calibration())

    @explain_call
    def score(
        self,
        query: Query,
        *,
        texts: str | Iterable[str] | None = None,
        images: ImageLike | Iterable[ImageLike] | None = None,
        video: VideoLike | Iterable[VideoLike] | None = None,
        segment: Mapping[str, Any] | SegmentLike | None = None,
    ) -> Scores:
        """The cosine of the query and each document, -1 to 1 -> float64 [documents]. Blocks.

        A string is a text query; an image is a path, bytes, a PIL image or an array.
        """
        call = read_score(query, texts=texts, images=images, video=video, segment=segment)
        return self._scores(call)

    @explain_call
    def rerank(
        self,
        query: Query,
        *,
        texts: str | Iterable[str] | None = None,
        images: ImageLike | Iterable[ImageLike] | None = None,
        video: VideoLike | Iterable[VideoLike] | None = None,
        top_n: int | None = None,
        segment: Mapping[str, Any] | SegmentLike | None = None,
    ) -> list[Ranked]:
        """The documents and their scores, highest first and equal ones by index. Blocks."""
        call = read_score(query, top_n, texts=texts, images=images, video=video, segment=segment)
        return call.ranked(self._scores(call))

    def _scores(self, call: ScoreCall) -> Scores:
        with errors_of("query"):
            query, _ = self._embed_call(call.query_call)
        documents, _ = self._embed_call(call.document_call)
        return call.scores(query, documents)

    @abstractmethod
    def _calibration(self) -> Calibration: ...

    @abstractmethod
    def _embed_call(self, call: EmbedCall) -> tuple[Mapping[int, Any], int]: ...


class AsyncScorer(ABC):
    """Scores while its event loop goes on: `Engine` and `AsyncClient`."""

    @explain_call
    async def aclassify(
        self,
        labels: Sequence[str],
        *,
        texts: str | Iterable[str] | None = None,
        images: ImageLike | Iterable[ImageLike] | None = None,
        video: VideoLike | Iterable[VideoLike] | None = None,
        template: str | Sequence[str] | None = None,
        activation: Activation | None = None,
        segment: Mapping[str, Any] | SegmentLike | None = None,
    ) -> Classification:
        """The same as `Scorer.classify`."""
        call = await asyncio.to_thread(
            read_classify,
            labels,
            template,
            activation,
            texts=texts,
            images=images,
            video=video,
            segment=segment,
        )
        with errors_of("labels", len(call.templates)):
            label_vectors, _ = await self._answer(call.label_call)
        inputs, _ = await self._answer(call.input_call)
        return call.result(label_vectors, inputs, await self._acalibration())

    @explain_call
    async def ascore(
        self,
        query: Query,
        *,
        texts: str | Iterable[str] | None = None,
        images: ImageLike | Iterable[ImageLike] | None = None,
        video: VideoLike | Iterable[VideoLike] | None = None,
        segment: Mapping[str, Any] | SegmentLike | None = None,
    ) -> Scores:
        """The same as `Scorer.score`."""
        call = await asyncio.to_thread(
            read_score, query, texts=texts, images=images, video=video, segment=segment
        )
        return await self._ascores(call)

    @explain_call
    async def arerank(
        self,
        query: Query,
        *,
        texts: str | Iterable[str] | None = None,
        images: ImageLike | Iterable[ImageLike] | None = None,
        video: VideoLike | Iterable[VideoLike] | None = None,
        top_n: int | None = None,
        segment: Mapping[str, Any] | SegmentLike | None = None,
    ) -> list[Ranked]:
        """The same as `Scorer.rerank`."""
        call = await asyncio.to_thread(
            read_score, query, top_n, texts=texts, images=images, video=video, segment=segment
        )
        return call.ranked(await self._ascores(call))

    async def _ascores(self, call: ScoreCall) -> Scores:
        with errors_of("query"):
            query, _ = await self._answer(call.query_call)
        documents, _ = await self._answer(call.document_call)
        return call.scores(query, documents)

    @abstractmethod
    async def _acalibration(self) -> Calibration: ...

    @abstractmethod
    async def _answer(self, call: EmbedCall) -> tuple[Mapping[int, Any], int]: ...
