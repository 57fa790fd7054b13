"""What embeds the items: a model in this process, or a server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple, Protocol

from multimodal_embedding_serving.batching.priority import Priority
from multimodal_embedding_serving.bulk.items import ITEM_KINDS, Kind, Source
from multimodal_embedding_serving.client import AsyncClient, Client
from multimodal_embedding_serving.client.protocol import read_calibration
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.engine.results import EmbeddingResult
from multimodal_embedding_serving.inputs.items import Embeddable, FrameInfo, Images, Texts, Video
from multimodal_embedding_serving.inputs.kinds import read_segment
from multimodal_embedding_serving.media.sampling import Segment
from multimodal_embedding_serving.sdk.similarity import Calibration
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Vector, Vectors

ITEMS_PER_CORE, MIN_PARALLEL, MAX_PARALLEL = 32, 64, 512
"""Images in flight: enough to fill batches while others are decoded."""
MAX_REQUESTS = 32
"""To a server, at a time."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The model that the vectors come from."""

    model: str
    fingerprint: str
    """Empty if the server does not report one."""
    dimension: int
    kinds: tuple[Kind, ...]
    calibration: Calibration = field(default_factory=Calibration)


class VideoResult(NamedTuple):
    """One vector for each sampled frame."""

    vectors: Vectors
    frames: Sequence[FrameInfo]


class Model(Protocol):
    """Embeds single items, many at a time. All methods raise EmbeddingError."""

    @property
    def identity(self) -> Identity: ...

    @property
    def parallel(self) -> int:
        """Items in flight that keep the model busy."""
        ...

    async def texts(self, texts: Sequence[str]) -> Vectors: ...

    async def query(self, text: str) -> Vector:
        """The vector of a search query."""
        ...

    async def image(self, source: Source) -> Vector: ...

    async def video(self, source: Source) -> VideoResult: ...

    async def aclose(self) -> None: ...


def kinds_of(modalities: Sequence[str]) -> tuple[Kind, ...]:
    """The kinds that a model of these modalities embeds: video follows image."""
    needed = {"text": "text", "image": "image", "video": "image"}
    return tuple(kind for kind in ITEM_KINDS if needed[kind] in modalities)


class LocalModel:
    """An engine in this process, which `aclose` closes."""

    def __init__(
        self, engine: Engine, settings: Settings, segment: Mapping[str, Any] | None = None
    ) -> None:
        """`segment` as segment_config. Raises InvalidInput."""
        self._engine = engine
        defaults = Segment(
            start_offset=settings.start_offset,
            clip_duration=settings.clip_duration,
            num_frames=settings.num_frames,
        )
        self._segment = read_segment(segment, defaults)
        info = engine.info
        kinds = kinds_of(info.modalities)
        self.identity = Identity(info.id, info.fingerprint, info.dimension, kinds, info.calibration)
        self.parallel = min(MAX_PARALLEL, max(MIN_PARALLEL, ITEMS_PER_CORE * settings.worker_count))

    async def texts(self, texts: Sequence[str]) -> Vectors:
        return (await self._embed(Texts(list(texts), "document"))).vectors

    async def query(self, text: str) -> Vector:
        vector: Vector = (await self._embed(Texts([text], "query"))).vectors[0]
        return vector

    async def image(self, source: Source) -> Vector:
        vector: Vector = (await self._embed(Images([source]))).vectors[0]
        return vector

    async def video(self, source: Source) -> VideoResult:
        result = await self._embed(Video.of(source, self._segment))
        return VideoResult(result.vectors, result.frames or ())

    async def _embed(self, source: Embeddable) -> EmbeddingResult:
        # No client waits: a long text may take as long as it takes.
        results = await self._engine.embed_inputs([source], priority=Priority.BULK, deadline=inf)
        return results[0]

    async def aclose(self) -> None:
        await self._engine.aclose()


def identity_of(client: Client) -> Identity:
    """Ask a server what it embeds. Raises RemoteFailed, Unauthorized, NotReady."""
    current = client.current()
    kinds = kinds_of(client.capabilities()["modalities"])
    dimension = current.get("dimension")
    if dimension is None:  # Intel's service does not report it
        dimension = client.embed_texts(["a"]).shape[1]
    fingerprint, calibration = current.get("fingerprint") or "", read_calibration(current)
    return Identity(str(current["model"]), fingerprint, dimension, kinds, calibration)


class RemoteModel:
    """A server, ours or one with the same API. Made by `connect`."""

    def __init__(
        self, client: AsyncClient, identity: Identity, segment: Mapping[str, Any] | None
    ) -> None:
        self._client, self.identity, self._segment = client, identity, segment
        self.parallel = MAX_REQUESTS

    @classmethod
    def connect(
        cls, url: str, api_key: str | None = None, segment: Mapping[str, Any] | None = None
    ) -> RemoteModel:
        """Ask a server what it embeds, and block meanwhile.

        `segment` as segment_config. Raises RemoteFailed, Unauthorized, NotReady.
        """
        with Client(url, api_key=api_key) as client:
            identity = identity_of(client)
        return cls(AsyncClient(url, api_key=api_key), identity, segment)

    async def texts(self, texts: Sequence[str]) -> Vectors:
        return await self._client.embed_texts(list(texts))

    async def query(self, text: str) -> Vector:
        vector: Vector = (await self._client.embed_texts(text))[0]
        return vector

    async def image(self, source: Source) -> Vector:
        vector: Vector = (await self._client.embed_images(source))[0]
        return vector

    async def video(self, source: Source) -> VideoResult:
        result = await self._client.embed_video(source, segment=self._segment)
        frames = [FrameInfo(each.index, each.timestamp) for each in result.frames]
        return VideoResult(result.vectors, frames)

    async def aclose(self) -> None:
        await self._client.close()


class CallerModel:
    """A server through a `Client` of the caller's, which stays open: each request has a thread."""

    def __init__(self, client: Client, segment: Mapping[str, Any] | None = None) -> None:
        """Ask the server what it embeds. Raises RemoteFailed, Unauthorized, NotReady."""
        self._client, self._segment = client, segment
        self.identity = identity_of(client)
        self.parallel = MAX_REQUESTS

    async def texts(self, texts: Sequence[str]) -> Vectors:
        return await asyncio.to_thread(self._client.embed_texts, list(texts))

    async def query(self, text: str) -> Vector:
        vector: Vector = (await asyncio.to_thread(self._client.embed_texts, text))[0]
        return vector

    async def image(self, source: Source) -> Vector:
        vector: Vector = (await asyncio.to_thread(self._client.embed_images, source))[0]
        return vector

    async def video(self, source: Source) -> VideoResult:
        result = await asyncio.to_thread(self._client.embed_video, source, segment=self._segment)
        frames = [FrameInfo(each.index, each.timestamp) for each in result.frames]
        return VideoResult(result.vectors, frames)

    async def aclose(self) -> None:
        """Nothing: the client is the caller's."""
