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
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self, overload

import httpx2

from multimodal_embedding_serving.client import protocol as protocol
from multimodal_embedding_serving.client.protocol import ApiRequest, RequestBuilder
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput, NotReady
from multimodal_embedding_serving.sdk.arguments import (
    ImageLike,
    Role,
    VideoLike,
    check_url,
    explain_call,
    positive,
    shorten,
)
from multimodal_embedding_serving.sdk.call import EmbedCall, read_call
from multimodal_embedding_serving.sdk.embedder import (
    AsyncEmbedder,
    Embedded,
    Embedder,
    SegmentConfig,
    Videos,
    required,
)
from multimodal_embedding_serving.sdk.results import VideoVectors
from multimodal_embedding_serving.sdk.similarity import Calibration
from multimodal_embedding_serving.types import Vectors

DEFAULT_URL = "http://127.0.0.1:9777"


def _read_options(
    url: str,
    model: str | None,
    api_key: str | None,
    timeout: float,
    retries: int,
    batch: int,
    parallel: int,
) -> tuple[RequestBuilder, dict[str, Any]]:
    """The builder, and the HTTP library's arguments. Raises InvalidInput, naming the option."""
    base = check_url(url)
    for name, value in (("model", model), ("api_key", api_key)):
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise InvalidInput(
                f"{name} must be a string that is not empty, or left out, not {shorten(value)}",
                param=name,
            )
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise InvalidInput(
            "api_key has a character that no HTTP header can hold, such as a line break; strip it",
            param="api_key",
        )
    positive("timeout", timeout, whole=False)
    positive("retries", retries, zero=True)
    positive("batch", batch)
    positive("parallel", parallel)
    headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
    limit = httpx2.Timeout(timeout, connect=min(timeout, 10))
    options = {"base_url": base, "headers": headers, "timeout": limit}
    return RequestBuilder(model, batch, retries), options


def _check_open(http: httpx2.Client | httpx2.AsyncClient) -> None:
    if http.is_closed:
        raise NotReady("the client is closed; make another one")


def _describe(client: Client | AsyncClient, http: httpx2.Client | httpx2.AsyncClient) -> str:
    """For a repr: no key."""
    model = client._builder.model
    closed = ", closed" if http.is_closed else ""
    shown = "" if model is None else f", model={model!r}"
    return f"{type(client).__name__}({str(http.base_url).rstrip('/')!r}{shown}{closed})"


class Client(Embedder):
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
        self._builder, options = _read_options(
            url, model, api_key, timeout, retries, batch, parallel
        )
        self._parallel = parallel
        self._http = httpx2.Client(**options, transport=transport)

    def __repr__(self) -> str:
        return _describe(self, self._http)

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
        """Close the connections. Leaving a `with` block does it too."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _calibration(self) -> Calibration:
        return protocol.read_calibration(self.current())

    def _embed_call(self, call: EmbedCall) -> Embedded:
        """Prepare requests while others are in flight; the first failure cancels the rest."""
        found: dict[int, Any] = {}
        pending: deque[Future[dict[int, Any]]] = deque()
        with ThreadPoolExecutor(self._parallel) as pool:
            try:
                for request in self._builder.requests(call):
                    if len(pending) == self._parallel:
                        found |= pending.popleft().result()
                    pending.append(pool.submit(self._answer, call, request))
                for each in pending:
                    found |= each.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return found, 0

    def _answer(self, call: EmbedCall, request: ApiRequest) -> dict[int, Any]:
        try:
            return protocol.results(call, request, self._send(request))
        except EmbeddingError as error:
            remaining = self._builder.after(call, request, error)
        found: dict[int, Any] = {}
        for part in remaining:
            found |= self._answer(call, part)
        return found

    def _send(self, request: ApiRequest, attempt: int = 0) -> Any:
        _check_open(self._http)
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


class AsyncClient(AsyncEmbedder):
    """The same methods as `Client`, as coroutines. `aembed` is another name of `embed`; so are
    `aclassify`, `ascore` and `arerank`."""

    embed = AsyncEmbedder.aembed
    classify = AsyncEmbedder.aclassify
    score = AsyncEmbedder.ascore
    rerank = AsyncEmbedder.arerank

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
        self._builder, options = _read_options(
            url, model, api_key, timeout, retries, batch, parallel
        )
        self._parallel = parallel
        self._http = httpx2.AsyncClient(**options, transport=transport)

    def __repr__(self) -> str:
        return _describe(self, self._http)

    @explain_call
    async def embed_texts(
        self,
        texts: str | Iterable[str],
        *,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
    ) -> Vectors:
        """float32 [texts, dimension]. A string is embedded as a query, a list as documents."""
        return await self.aembed(
            texts=required(texts), role=role, instruction=instruction, dimensions=dimensions
        )

    @explain_call
    async def embed_images(
        self, images: ImageLike | Iterable[ImageLike], *, dimensions: int | None = None
    ) -> Vectors:
        """float32 [images, dimension]. A client reads an iterator of images batch by batch."""
        return await self.aembed(images=required(images), dimensions=dimensions)

    @overload
    async def embed_video(
        self,
        video: VideoLike,
        *,
        segment: SegmentConfig | None = None,
        dimensions: int | None = None,
    ) -> VideoVectors: ...

    @overload
    async def embed_video(
        self,
        video: Videos,
        *,
        segment: SegmentConfig | None = None,
        dimensions: int | None = None,
    ) -> list[VideoVectors]: ...

    @explain_call
    async def embed_video(
        self,
        video: VideoLike | Videos,
        *,
        segment: SegmentConfig | None = None,
        dimensions: int | None = None,
    ) -> Any:
        """One vector per sampled frame, with the frames; of a list of videos, a list of these."""
        call = await asyncio.to_thread(
            read_call, video=required(video), segment=segment, dimensions=dimensions
        )
        found: Any = (await self._answer(call))[0]
        return call.videos(found)

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
        """Close the connections. Leaving an `async with` block does it too."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _acalibration(self) -> Calibration:
        return protocol.read_calibration(await self.current())

    async def _answer(self, call: EmbedCall) -> Embedded:
        """Prepare requests on a thread; the first failure cancels the rest and is raised."""
        free = asyncio.Semaphore(self._parallel)
        found: dict[int, Any] = {}

        async def embed(request: ApiRequest) -> None:
            try:
                found.update(await self._answer_request(call, request))
            finally:
                free.release()

        requests = self._builder.requests(call)
        try:
            async with asyncio.TaskGroup() as group:
                await free.acquire()
                while (request := await asyncio.to_thread(next, requests, None)) is not None:
                    group.create_task(embed(request))
                    await free.acquire()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return found, 0

    async def _answer_request(self, call: EmbedCall, request: ApiRequest) -> dict[int, Any]:
        try:
            return protocol.results(call, request, await self._send(request))
        except EmbeddingError as error:
            remaining = await asyncio.to_thread(self._builder.after, call, request, error)
        found: dict[int, Any] = {}
        for part in remaining:
            found |= await self._answer_request(call, part)
        return found

    async def _send(self, request: ApiRequest, attempt: int = 0) -> Any:
        _check_open(self._http)
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
