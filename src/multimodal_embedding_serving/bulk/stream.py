"""Items in, vectors out, in order: many on their way at once, few of them in memory."""

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
from multimodal_embedding_serving.bulk.listing import Listed
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

AHEAD = 256
"""Items that are listed before they are asked for."""
CLOSE_TIMEOUT = 1.0
"""Seconds that an interrupted listing has to end, so that nobody closes a ledger that it reads."""
TEXTS, CHARACTERS = 64, 1 << 18
"""Texts of one request, and how long they may be together."""
TYPICAL = 4096
"""Characters that a file is thought to have before it is read."""
FILMS = 2
"""Videos at a time: each has a process and threads of its own."""
READY = 1024
"""Requests that may wait for an earlier one, a long video, before no more are started."""
PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between tries while the model is opened again, or others fill its queue."""
LONGEST = 1 << 20
"""Characters that are read of a file; no model's limit is near."""
HOPELESS = (NotReady, QueueFull, Unauthorized, ModelMismatch)
"""They end the job."""


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
    listed: Iterable[Listed], model: Model, *, ready: int = READY
) -> AsyncGenerator[Result, None]:
    """One result for each item or failure listed, in the same order.

    `listed` is read on a thread, no further ahead than is needed. Raises what ends the whole job:
    the model or the server is gone.
    """
    stream = Stream(listed, model, ready)
    try:
        async with aclosing(stream.results()) as results:
            async for result in results:
                yield result
    finally:
        await stream.stop()


class Stream:
    """Requests in order of their items: started as slots are free, awaited by whoever reads."""

    def __init__(self, listed: Iterable[Listed], model: Model, ready: int) -> None:
        self._model = model
        self._listed = listed
        self._slots = asyncio.Semaphore(model.parallel)
        self._films = asyncio.Semaphore(FILMS)
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
        """Drop what is on its way."""
        left: list[asyncio.Task[Any]] = [self._feeder]
        self._feeder.cancel()
        while not self._requests.empty():
            if (request := self._requests.get_nowait()) is not None:
                request.cancel()
                left.append(request)
        await asyncio.gather(*left, return_exceptions=True)

    async def _feed(self) -> None:
        try:
            async with aclosing(self._chunks()) as chunks:
                async for chunk in chunks:
                    for listed in _requests(chunk):
                        await self._room.acquire()
                        await self._slots.acquire()
                        request = asyncio.create_task(self._results(listed))
                        request.add_done_callback(lambda _: self._slots.release())
                        self._requests.put_nowait(request)
        finally:
            self._requests.put_nowait(None)

    def _chunks(self) -> AsyncGenerator[list[Listed], None]:
        """Whatever has been listed since the last chunk, at least one item.

        The thread is a daemon: one that reads a terminal may never come back.
        """

        def read() -> Generator[Listed, None, None]:
            yield from self._listed

        return stream_batches(
            read, DaemonThread("listing"), ahead=AHEAD, size=AHEAD, close_timeout=CLOSE_TIMEOUT
        )

    async def _results(self, listed: Sequence[Listed]) -> list[Result]:
        """Of texts, or of one picture, one video or one failure."""
        items = [each for each in listed if isinstance(each, Item)]
        try:
            if items:
                return await self._embedded(items)
        except OSError as error:
            refusal = unreadable(error)
        except EmbeddingError as error:
            if _is_hopeless(error):
                raise
            refusal = error
        else:
            return [each for each in listed if isinstance(each, Failure)]
        if len(items) == 1:
            refusal.index = None
            return [Refusal(items[0], refusal)]
        return [result for item in items for result in await self._results([item])]

    async def _embedded(self, items: list[Item]) -> list[Result]:
        first, model = items[0], self._model
        if first.kind not in model.identity.kinds:
            raise ModalityNotSupported(f"{model.identity.model} embeds no {first.kind}")
        if first.kind == "text":
            texts = await asyncio.to_thread(lambda: [_text(item) for item in items])
            vectors = await _patiently(lambda: model.texts(texts))
            return [Answer(item, row[None]) for item, row in zip(items, vectors, strict=True)]
        if first.kind == "image":
            return [Answer(first, (await _patiently(lambda: model.image(first.source)))[None])]
        async with self._films:
            film = await _patiently(lambda: model.video(first.source))
        return [Answer(first, film.vectors, film.frames)]


def _requests(chunk: Sequence[Listed]) -> Iterator[list[Listed]]:
    """Texts that follow each other go together, all else goes alone."""
    texts: list[Listed] = []
    size = 0
    for each in chunk:
        text = each if isinstance(each, Item) and each.kind == "text" else None
        if texts and (text is None or len(texts) == TEXTS or size >= CHARACTERS):
            yield texts
            texts, size = [], 0
        if text is None:
            yield [each]
        else:
            texts.append(text)
            size += len(text.source) if isinstance(text.source, str) else TYPICAL
    if texts:
        yield texts


def _text(item: Item) -> str:
    """What is to be embedded. Raises OSError."""
    source = item.source
    if isinstance(source, bytes):
        return source.decode("utf-8", "replace")
    if isinstance(source, str):
        return source
    with source.open(encoding="utf-8", errors="replace") as file:
        return file.read(LONGEST)


def _is_hopeless(error: EmbeddingError) -> bool:
    """Whether the next item would meet the same error: the model, or the server, is gone."""
    return isinstance(error, HOPELESS) or isinstance(error.__cause__, LOST)


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Try again, after a pause, what can't be done just now."""
    for pause in PAUSES:
        try:
            return await call()
        except (NotReady, QueueFull):
            await asyncio.sleep(pause)
    return await call()
