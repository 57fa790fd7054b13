"""The HTTP client, sync and async: `Client("http://host:9777").embed_texts(["a cat"])`.

Large inputs are sent in several requests, up to `parallel` of them at a time. If the server is busy
or the connection breaks, a request is retried after the pause in Retry-After, or else with
exponential backoff. An error that the server reports is raised as the same class of `errors`;
RemoteFailed is raised if the server can't be reached.
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

DEFAULT_URL = "http://127.0.0.1:9777"
Role = Literal["query", "document"]


def _options(url: str, api_key: str | None, timeout: float) -> dict[str, Any]:
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    limit = httpx2.Timeout(timeout, connect=min(timeout, 10))
    return {"base_url": url, "headers": headers, "timeout": limit}


class Client:
    """Embeds texts, images and videos on a server; vectors are float32 and have unit length.

    A request has at most `batch` items and is retried up to `retries` times; `timeout` is in
    seconds. Thread-safe.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 300,
        retries: int = 4,
        batch: int = 64,
        parallel: int = 4,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self._builder = RequestBuilder(model, batch, retries)
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
        """float32 [texts, dimension]. A string is embedded as a query, a list as documents."""
        options = {"instruction": instruction, "dimensions": dimensions}
        return self._vectors(self._builder.text_requests(texts, role, options))

    def embed_images(self, images: ImageLike | Iterable[ImageLike]) -> Vectors:
        """float32 [images, dimension]. Images are read batch by batch, so any number is fine."""
        return self._vectors(self._builder.image_requests(images))

    def embed_video(
        self, video: VideoLike, *, segment: Mapping[str, Any] | None = None
    ) -> VideoVectors:
        """One vector per sampled frame, with the frames. `segment` is the API's segment_config."""
        return protocol.video_vectors(self._send(self._builder.video_request(video, segment)))

    def models(self) -> dict[str, list[str]]:
        """Family -> names of its models."""
        return dict(self._send(ApiRequest("GET", "/models"))["available_models"])

    def current(self) -> dict[str, Any]:
        """The loaded model: its name, device, precision, dimension and fingerprint."""
        return dict(self._send(ApiRequest("GET", "/model/current")))

    def capabilities(self) -> dict[str, Any]:
        """The loaded model's modalities."""
        return dict(self._send(ApiRequest("GET", "/model/capabilities")))

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _vectors(self, requests: Iterator[ApiRequest]) -> Vectors:
        """Prepare requests while others are in flight; the first failure cancels the rest."""
        parts: list[Vectors] = []
        pending: deque[Future[Vectors]] = deque()
        with ThreadPoolExecutor(self._parallel) as pool:
            try:
                for request in requests:
                    if len(pending) == self._parallel:
                        parts.append(pending.popleft().result())
                    pending.append(pool.submit(self._rows, request))
                parts.extend(each.result() for each in pending)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return protocol.concatenate(parts)

    def _rows(self, request: ApiRequest) -> Vectors:
        return protocol.read_vectors(self._send(request))

    def _send(self, request: ApiRequest, attempt: int = 0) -> Any:
        reply: protocol.Reply
        try:
            reply = self._http.request(request.method, request.path, **request.payload())
        except httpx2.TransportError as error:
            reply = error
        wait = self._builder.pause(reply, attempt)
        if wait is None:
            return protocol.read_reply(request, reply)
        time.sleep(wait)
        return self._send(request, attempt + 1)


class AsyncClient:
    """The same methods as `Client`, as coroutines."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout: float = 300,
        retries: int = 4,
        batch: int = 64,
        parallel: int = 4,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._builder = RequestBuilder(model, batch, retries)
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
        """float32 [texts, dimension]. A string is embedded as a query, a list as documents."""
        options = {"instruction": instruction, "dimensions": dimensions}
        return await self._vectors(self._builder.text_requests(texts, role, options))

    async def embed_images(self, images: ImageLike | Iterable[ImageLike]) -> Vectors:
        """float32 [images, dimension]. Images are read batch by batch, so any number is fine."""
        return await self._vectors(self._builder.image_requests(images))

    async def embed_video(
        self, video: VideoLike, *, segment: Mapping[str, Any] | None = None
    ) -> VideoVectors:
        """One vector per sampled frame, with the frames. `segment` is the API's segment_config."""
        request = await asyncio.to_thread(self._builder.video_request, video, segment)
        return protocol.video_vectors(await self._send(request))

    async def models(self) -> dict[str, list[str]]:
        """Family -> names of its models."""
        return dict((await self._send(ApiRequest("GET", "/models")))["available_models"])

    async def current(self) -> dict[str, Any]:
        """The loaded model: its name, device, precision, dimension and fingerprint."""
        return dict(await self._send(ApiRequest("GET", "/model/current")))

    async def capabilities(self) -> dict[str, Any]:
        """The loaded model's modalities."""
        return dict(await self._send(ApiRequest("GET", "/model/capabilities")))

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _vectors(self, requests: Iterator[ApiRequest]) -> Vectors:
        """Prepare requests on a thread; the first failure cancels the rest and is raised."""
        free = asyncio.Semaphore(self._parallel)
        tasks: list[asyncio.Task[Vectors]] = []

        async def embed(request: ApiRequest) -> Vectors:
            try:
                return protocol.read_vectors(await self._send(request))
            finally:
                free.release()

        try:
            async with asyncio.TaskGroup() as group:
                await free.acquire()
                while (request := await asyncio.to_thread(next, requests, None)) is not None:
                    tasks.append(group.create_task(embed(request)))
                    await free.acquire()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return protocol.concatenate([task.result() for task in tasks])

    async def _send(self, request: ApiRequest, attempt: int = 0) -> Any:
        reply: protocol.Reply
        try:
            reply = await self._http.request(request.method, request.path, **request.payload())
        except httpx2.TransportError as error:
            reply = error
        wait = self._builder.pause(reply, attempt)
        if wait is None:
            return protocol.read_reply(request, reply)
        await asyncio.sleep(wait)
        return await self._send(request, attempt + 1)
