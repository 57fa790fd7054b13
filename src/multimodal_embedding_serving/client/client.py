"""The HTTP client, sync and async: `Client("http://host:9777").embed_texts(["a cat"])`.

A large input is sent in several requests, up to `parallel` of them at a time. Where the server is
busy or away, a request is sent again after the pause that the server names. What the server
refuses is raised as the class of `errors` that the server itself raised; a server that can't be
reached is RemoteFailed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, Self

import httpx2

from multimodal_embedding_serving.client import protocol as protocol
from multimodal_embedding_serving.client.protocol import (
    ApiRequest,
    ImageLike,
    RequestBuilder,
    VideoLike,
    VideoVectors,
)
from multimodal_embedding_serving.types import Vectors

LOCAL = "http://127.0.0.1:9777"
Role = Literal["query", "document"]


def _options(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    limit = httpx2.Timeout(timeout, connect=min(timeout, 10))
    return {"base_url": url, "headers": headers, "timeout": limit}


class Client:
    """A server's models as functions from media to float32 vectors of unit length.

    `batch` items at most go into one request; `retries` says how often one is sent again. A client
    may be used by several threads.
    """

    def __init__(
        self,
        url: str = LOCAL,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 300,
        retries: int = 4,
        batch: int = 64,
        parallel: int = 4,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._wire = RequestBuilder(model, batch, retries)
        self._parallel = parallel
        self._http = httpx2.Client(**_options(url, api_key, timeout), transport=transport)

    def embed_texts(
        self,
        texts: str | Sequence[str],
        *,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
    ) -> Vectors:
        """float32 [texts, dimension]. A string is a query, a list holds documents."""
        wanted = {"instruction": instruction, "dimensions": dimensions}
        return self._vectors(self._wire.text_calls(texts, role, wanted))

    def embed_images(self, images: ImageLike | Iterable[ImageLike]) -> Vectors:
        """float32 [images, dimension]. Images are read as they are sent: any number will do."""
        return self._vectors(self._wire.image_calls(images))

    def embed_video(
        self, video: VideoLike, *, segment: Mapping[str, Any] | None = None
    ) -> VideoVectors:
        """One vector per sampled frame, and which frames they are; `segment` as segment_config."""
        return protocol.video_vectors(self._answer(self._wire.video_call(video, segment)))

    def models(self) -> dict[str, list[str]]:
        """Family -> names of its models."""
        return dict(self._answer(ApiRequest("GET", "/models"))["available_models"])

    def current(self) -> dict[str, Any]:
        """The loaded model: its name, device, precision, dimension, fingerprint."""
        return dict(self._answer(ApiRequest("GET", "/model/current")))

    def capabilities(self) -> dict[str, Any]:
        """The loaded model's modalities."""
        return dict(self._answer(ApiRequest("GET", "/model/capabilities")))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _vectors(self, calls: Iterator[ApiRequest]) -> Vectors:
        """Reads and encodes while others are answered; the first failure stops the rest."""
        parts: list[Vectors] = []
        waiting: deque[Future[Vectors]] = deque()
        with ThreadPoolExecutor(self._parallel) as pool:
            try:
                for call in calls:
                    if len(waiting) == self._parallel:
                        parts.append(waiting.popleft().result())
                    waiting.append(pool.submit(self._rows, call))
                parts.extend(each.result() for each in waiting)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return protocol.joined(parts)

    def _rows(self, call: ApiRequest) -> Vectors:
        return protocol.rows(self._answer(call))

    def _answer(self, call: ApiRequest, attempt: int = 0) -> Any:
        reply: protocol.Reply
        try:
            reply = self._http.request(call.method, call.path, **call.payload())
        except httpx2.TransportError as error:
            reply = error
        wait = self._wire.pause(reply, attempt)
        if wait is None:
            return protocol.answer(call, reply)
        time.sleep(wait)
        return self._answer(call, attempt + 1)


class AsyncClient:
    """The same functions, awaited."""

    def __init__(
        self,
        url: str = LOCAL,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 300,
        retries: int = 4,
        batch: int = 64,
        parallel: int = 4,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._wire = RequestBuilder(model, batch, retries)
        self._parallel = parallel
        self._http = httpx2.AsyncClient(**_options(url, api_key, timeout), transport=transport)

    async def embed_texts(
        self,
        texts: str | Sequence[str],
        *,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
    ) -> Vectors:
        """float32 [texts, dimension]. A string is a query, a list holds documents."""
        wanted = {"instruction": instruction, "dimensions": dimensions}
        return await self._vectors(self._wire.text_calls(texts, role, wanted))

    async def embed_images(self, images: ImageLike | Iterable[ImageLike]) -> Vectors:
        """float32 [images, dimension]. Images are read as they are sent: any number will do."""
        return await self._vectors(self._wire.image_calls(images))

    async def embed_video(
        self, video: VideoLike, *, segment: Mapping[str, Any] | None = None
    ) -> VideoVectors:
        """One vector per sampled frame, and which frames they are; `segment` as segment_config."""
        call = await asyncio.to_thread(self._wire.video_call, video, segment)
        return protocol.video_vectors(await self._answer(call))

    async def models(self) -> dict[str, list[str]]:
        """Family -> names of its models."""
        return dict((await self._answer(ApiRequest("GET", "/models")))["available_models"])

    async def current(self) -> dict[str, Any]:
        """The loaded model: its name, device, precision, dimension, fingerprint."""
        return dict(await self._answer(ApiRequest("GET", "/model/current")))

    async def capabilities(self) -> dict[str, Any]:
        """The loaded model's modalities."""
        return dict(await self._answer(ApiRequest("GET", "/model/capabilities")))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _vectors(self, calls: Iterator[ApiRequest]) -> Vectors:
        """Reads and encodes on a thread; the first failure stops the rest and is raised."""
        free = asyncio.Semaphore(self._parallel)
        tasks: list[asyncio.Task[Vectors]] = []

        async def embed(call: ApiRequest) -> Vectors:
            try:
                return protocol.rows(await self._answer(call))
            finally:
                free.release()

        try:
            async with asyncio.TaskGroup() as group:
                await free.acquire()
                while (call := await asyncio.to_thread(next, calls, None)) is not None:
                    tasks.append(group.create_task(embed(call)))
                    await free.acquire()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return protocol.joined([task.result() for task in tasks])

    async def _answer(self, call: ApiRequest, attempt: int = 0) -> Any:
        reply: protocol.Reply
        try:
            reply = await self._http.request(call.method, call.path, **call.payload())
        except httpx2.TransportError as error:
            reply = error
        wait = self._wire.pause(reply, attempt)
        if wait is None:
            return protocol.answer(call, reply)
        await asyncio.sleep(wait)
        return await self._answer(call, attempt + 1)
