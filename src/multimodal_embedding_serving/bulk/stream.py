"""Items in, vectors out, in order: many in flight at a time, few in memory."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from multimodal_embedding_serving.bulk.items import Failure, Item, unreadable
from multimodal_embedding_serving.bulk.listing import ListingEntry
from multimodal_embedding_serving.bulk.models import Model
from multimodal_embedding_serving.client.protocol import LOST
from multimodal_embedding_serving.errors import (
    EmbeddingError,
    ModalityNotSupported,
    ModelMismatch,
    NotReady,
    QueueFull,
    Unauthorized,
)
from multimodal_embedding_serving.inputs.items import FrameInfo
from multimodal_embedding_serving.media.stream import DaemonThread, stream_batches
from multimodal_embedding_serving.types import Vectors

T = TypeVar("T")

MAX_LISTED = 256
"""Items that are listed ahead of their requests."""
CLOSE_TIMEOUT = 1.0
"""Seconds to wait for an interrupted listing, which reads the ledger that is closed next."""
MAX_TEXTS, MAX_CHARACTERS = 64, 1 << 18
"""In one request."""
DEFAULT_FILE_CHARACTERS = 4096
"""The assumed length of a text file before it is read."""
MAX_VIDEOS_AHEAD = 2
"""Videos at a time: each has a process and threads of its own."""
MAX_READY = 1024
"""Requests started before the first one of them is answered, such as one with a long video."""
RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds before each retry while the model reloads or its queue is full."""
MAX_FILE_CHARACTERS = 1 << 20
"""Read from a text file, in characters; every model's limit is far below."""
FATAL_ERRORS = (NotReady, QueueFull, Unauthorized, ModelMismatch)
"""Errors that end the job, because every other item would fail with them, too."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An item's vectors."""

    item: Item
    vectors: Vectors
    frames: Sequence[FrameInfo] | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """An item that could not be embedded, and why."""

    item: Item
    error: EmbeddingError


Result = Answer | Refusal | Failure


async def embed(
    entries: Iterable[ListingEntry], model: Model, *, ready: int = MAX_READY
) -> AsyncGenerator[Result, None]:
    """Yield a result for each entry, in the same order.

    `entries` is read on a thread, at most MAX_LISTED ahead. Raises what ends the whole job: the
    model failed for good, or the server can't be reached.
    """
    stream = Stream(entries, model, ready)
    try:
        async with aclosing(stream.results()) as results:
            async for result in results:
                yield result
    finally:
        await stream.stop()


class Stream:
    """Requests in the order of their items, started as slots become free."""

    def __init__(self, entries: Iterable[ListingEntry], model: Model, ready: int) -> None:
        self._model = model
        self._entries = entries
        self._slots = asyncio.Semaphore(model.parallel)
        self._videos = asyncio.Semaphore(MAX_VIDEOS_AHEAD)
        self._room = asyncio.Semaphore(ready)
        self._requests: asyncio.Queue[asyncio.Task[list[Result]] | None] = asyncio.Queue()
        self._feeder = asyncio.create_task(self._feed())

    async def results(self) -> AsyncGenerator[Result, None]:
        while (request := await self._requests.get()) is not None:
            for result in await request:
                yield result
            self._room.release()
        await self._feeder

    async def stop(self) -> None:
        """Cancel the requests in flight."""
        tasks: list[asyncio.Task[Any]] = [self._feeder]
        self._feeder.cancel()
        while not self._requests.empty():
            if (request := self._requests.get_nowait()) is not None:
                request.cancel()
                tasks.append(request)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _feed(self) -> None:
        try:
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    for entries in _requests(chunk):
                        await self._room.acquire()
                        await self._slots.acquire()
                        request = asyncio.create_task(self._results(entries))
                        request.add_done_callback(lambda _: self._slots.release())
                        self._requests.put_nowait(request)
        finally:
            self._requests.put_nowait(None)

    def _chunks(self) -> AsyncGenerator[list[ListingEntry], None]:
        """What has been listed since the last chunk, at least one entry.

        The thread is a daemon: one that reads from a terminal may block forever.
        """

        def read() -> Generator[ListingEntry, None, None]:
            yield from self._entries

        return stream_batches(
            read,
            DaemonThread("listing"),
            ahead=MAX_LISTED,
            size=MAX_LISTED,
            close_timeout=CLOSE_TIMEOUT,
        )

    async def _results(self, entries: Sequence[ListingEntry]) -> list[Result]:
        """Of several texts, or of one image, one video or one failure."""
        items = [each for each in entries if isinstance(each, Item)]
        try:
            if items:
                return await self._embed(items)
        except OSError as error:
            failure: EmbeddingError = unreadable(error, items[0].listed_file)
        except EmbeddingError as error:
            if _is_fatal(error):
                raise
            failure = error
        else:
            return [each for each in entries if isinstance(each, Failure)]
        if len(items) == 1:
            failure.index = None
            return [Refusal(items[0], failure)]
        return [result for item in items for result in await self._results([item])]

    async def _embed(self, items: list[Item]) -> list[Result]:
        first, model = items[0], self._model
        if first.kind not in model.identity.kinds:
            raise ModalityNotSupported(
                f"the model {model.identity.model} does not embed {first.kind} input"
            )
        if first.kind == "text":
            texts = await asyncio.to_thread(lambda: [_text(item) for item in items])
            vectors = await _with_retries(lambda: model.texts(texts))
            return [Answer(item, row[None]) for item, row in zip(items, vectors, strict=True)]
        if first.kind == "image":
            return [Answer(first, (await _with_retries(lambda: model.image(first.source)))[None])]
        async with self._videos:
            video = await _with_retries(lambda: model.video(first.source))
        return [Answer(first, video.vectors, video.frames)]


def _requests(chunk: Sequence[ListingEntry]) -> Iterator[list[ListingEntry]]:
    """Consecutive texts share a request; everything else has its own."""
    texts: list[ListingEntry] = []
    size = 0
    for each in chunk:
        text = each if isinstance(each, Item) and each.kind == "text" else None
        if texts and (text is None or len(texts) == MAX_TEXTS or size >= MAX_CHARACTERS):
            yield texts
            texts, size = [], 0
        if text is None:
            yield [each]
        else:
            texts.append(text)
            size += len(text.source) if isinstance(text.source, str) else DEFAULT_FILE_CHARACTERS
    if texts:
        yield texts


def _text(item: Item) -> str:
    """The text itself. Raises OSError."""
    source = item.source
    if isinstance(source, bytes):
        return source.decode("utf-8", "replace")
    if isinstance(source, str):
        return source
    with source.open(encoding="utf-8", errors="replace") as file:
        return file.read(MAX_FILE_CHARACTERS)


def _is_fatal(error: EmbeddingError) -> bool:
    """Whether every other item would fail the same way."""
    return isinstance(error, FATAL_ERRORS) or isinstance(error.__cause__, LOST)


async def _with_retries(call: Callable[[], Awaitable[T]]) -> T:
    """Retry while the model reloads or its queue is full."""
    for delay in RETRY_DELAYS:
        try:
            return await call()
        except (NotReady, QueueFull):
            await asyncio.sleep(delay)
    return await call()
