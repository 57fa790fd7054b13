"""One open model: inputs in, unit vectors out.

The engine admits requests, picks the tower, holds the deadline, and puts the answer together. It
runs on whatever event loop awaits it; `embed` serves callers that have none.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Self

from multimodal_embedding_serving.batching.priority import Priority
from multimodal_embedding_serving.batching.tower import ItemResult, Tower
from multimodal_embedding_serving.conversion.serving_form import choose_form
from multimodal_embedding_serving.conversion.store import load_model
from multimodal_embedding_serving.engine.loader import ModelInfo, ModelLoader
from multimodal_embedding_serving.engine.results import EmbeddingResult, assemble, named
from multimodal_embedding_serving.errors import (
    DeadlineExceeded,
    DimensionsNotAllowed,
    EmbeddingError,
    InvalidInput,
    ModalityNotSupported,
    NotReady,
    QueueFull,
)
from multimodal_embedding_serving.inputs.items import (
    Embeddable,
    Images,
    InputLimits,
    ItemBatch,
    Role,
    Texts,
    Video,
    too_many_items,
)
from multimodal_embedding_serving.inputs.kinds import read_segment
from multimodal_embedding_serving.inputs.media_access import MediaAccess
from multimodal_embedding_serving.media.image import ImageSource
from multimodal_embedding_serving.media.sampling import Segment
from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.monitoring.request import current_request
from multimodal_embedding_serving.monitoring.tracing import span
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Modality, Progress, Vectors, ignore_progress

log = logging.getLogger(__name__)

FEW = 32
"""Requests of more items than this go to the bulk lane, as do videos."""


class Engine:
    """One open model. Safe to use from several threads and event loops at once."""

    def __init__(
        self,
        info: ModelInfo,
        towers: Mapping[Modality, Tower],
        settings: Settings,
        *,
        media: MediaAccess | None = None,
        metrics: Metrics | None = None,
        reopen: Callable[[], Mapping[Modality, Tower]] | None = None,
    ) -> None:
        self.info = info
        self.towers = dict(towers)
        self._settings, self._open_towers = settings, reopen
        self._limits = InputLimits.of(settings)
        self._metrics = metrics or Metrics()
        self._media = media or MediaAccess.from_settings(settings, self._metrics.received)
        self._lock = threading.Lock()
        self._admitted = 0
        self._pace = 1.0
        self._closed = False
        self._background: asyncio.AbstractEventLoop | None = None
        self.healthy = True
        """False while a broken model is opened again, and once closed."""
        self.dead = False
        """The model broke and could not be opened again."""

    @classmethod
    def open(
        cls,
        model: str | None = None,
        *,
        settings: Settings | None = None,
        progress: Progress = ignore_progress,
        metrics: Metrics | None = None,
        **overrides: Any,
    ) -> Engine:
        """Open a model, converting it first where that has not been done. Blocking.

        `overrides` are fields of Settings. `progress(stage, share)` hears how far it is.
        """
        settings = settings or Settings.from_env(model=model, **overrides)
        metrics = metrics or Metrics()
        media = MediaAccess.from_settings(settings, metrics.received)
        opened = load_model(settings, progress)
        form = choose_form(opened, settings, progress)
        progress("opening the model", 0.0)
        opener = ModelLoader(opened, settings, media, metrics, form=form)
        towers = opener.open()
        info = opener.describe(towers)
        engine = cls(info, towers, settings, media=media, metrics=metrics, reopen=opener.open)
        opener.on_broken = engine.reopen
        return engine

    async def aembed(
        self,
        inputs: Sequence[Embeddable],
        *,
        dimensions: int | None = None,
        deadline: float | None = None,
        priority: Priority | None = None,
    ) -> list[EmbeddingResult]:
        """Embed inputs -> one answer each, in order. `deadline` is a time.monotonic().

        Raises the first error, naming its item by index: among the inputs if there are several,
        among the items of the only one otherwise.
        """
        self._check(inputs)
        size = self._size(dimensions)
        if deadline is None:
            deadline = time.monotonic() + self._settings.request_timeout
        try:
            async with asyncio.timeout(deadline - time.monotonic()) as scope:
                batches = [
                    await _expand(inputs, place, self._media, self._limits)
                    for place in range(len(inputs))
                ]
                with self._admit(batches), span("embed", {"mmes.inputs": len(batches)}):
                    results = await self._run(
                        inputs, batches, priority or _priority(batches), deadline
                    )
        except TimeoutError:
            if scope.expired():
                raise DeadlineExceeded("the request's deadline has passed") from None
            raise
        several = len(batches) > 1
        return [
            assemble(batch, results[place], size, place if several else None)
            for place, batch in enumerate(batches)
        ]

    def embed(
        self,
        *,
        texts: str | Sequence[str] | None = None,
        images: ImageSource | Path | str | Sequence[ImageSource | Path | str] | None = None,
        video: bytes | Path | str | None = None,
        segment: Segment | Mapping[str, Any] | None = None,
        role: Role | None = None,
        instruction: str | None = None,
        dimensions: int | None = None,
    ) -> Vectors:
        """Embed texts, or images, or one video's frames -> float32 [n, dimension]. Blocking.

        A string is a query and a list holds documents, unless `role` says otherwise. Images are
        paths, bytes, PIL images, arrays or URLs; a video is a path, bytes or a URL.
        """
        given = [each for each in (texts, images, video) if each is not None]
        if len(given) != 1:
            raise InvalidInput("give one of texts, images and video")
        source: Embeddable
        if texts is not None:
            single = isinstance(texts, str)
            listed = [texts] if isinstance(texts, str) else list(texts)
            source = Texts(listed, role or ("query" if single else "document"), instruction)
        elif images is not None:
            source = Images(images if isinstance(images, list | tuple) else [images])  # type: ignore[list-item]
        else:
            if not isinstance(segment, Segment):
                segment = read_segment(segment, self._media.segment)
            source = Video.of(video or b"", segment)
        loop = self._private_loop()
        future = asyncio.run_coroutine_threadsafe(
            self.aembed([source], dimensions=dimensions), loop
        )
        try:
            return future.result()[0].vectors
        finally:
            future.cancel()

    def close(self) -> None:
        """Fail what waits, stop the threads, free the device."""
        self._closed, self.healthy = True, False
        for tower in self.towers.values():
            tower.close()
        self._media.close()
        if self._background is not None:
            closing = self._media.fetcher.aclose()
            asyncio.run_coroutine_threadsafe(closing, self._background).result()
            self._background.call_soon_threadsafe(self._background.stop)
            self._background = None

    async def aclose(self) -> None:
        """Close on an event loop that `aembed` was awaited on: its connections too."""
        await self._media.fetcher.aclose()
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ── one request ──

    def _check(self, inputs: Sequence[Embeddable]) -> None:
        if self._closed:
            raise NotReady("the model is closed")
        if not self.healthy:
            raise NotReady("the model broke and is being opened again")
        for place, each in enumerate(inputs):
            if each.modality not in self.towers:
                names = ", ".join(self.info.modalities)
                raise ModalityNotSupported(
                    f"the model {self.info.id} does not embed {each.modality} input, only {names}",
                    index=place if len(inputs) > 1 else None,
                    param="input",
                )

    def _size(self, dimensions: int | None) -> int:
        """The length of the vectors to answer."""
        longest, shortest = self.info.dimension, self.info.min_dimension
        if dimensions is None or dimensions == longest:
            return longest
        if shortest <= dimensions < longest:
            return dimensions
        allowed = f"{shortest} to {longest}" if shortest < longest else f"only {longest}"
        raise DimensionsNotAllowed(
            f"dimensions={dimensions} is not allowed for {self.info.id}: {allowed}",
            param="dimensions",
        )

    @contextmanager
    def _admit(self, batches: Sequence[ItemBatch]) -> Iterator[None]:
        """Count the items in and out. A request larger than the queue may enter when alone."""
        items = sum(1 if batch.video else batch.count for batch in batches)
        if items > self._limits.max_items:
            raise too_many_items(items, self._limits.max_items)
        limit = self._settings.queue_limit
        count = sum(batch.count for batch in batches)
        with self._lock:
            if self._admitted and self._admitted + count > limit:
                wait = min(60, math.ceil(self._pace))
                raise QueueFull("too many items are waiting; try again later", retry_after=wait)
            self._admitted += count
        account = current_request.get()
        if account is not None:
            account.items += count
        started = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._admitted -= count
                self._pace = time.monotonic() - started

    async def _run(
        self,
        inputs: Sequence[Embeddable],
        batches: Sequence[ItemBatch],
        priority: Priority,
        deadline: float,
    ) -> list[list[ItemResult]]:
        """Results by batch. Batches of one tower go through it together; streams go alone."""
        groups: dict[Modality | int, list[int]] = {}
        for place, batch in enumerate(batches):
            alone = isinstance(batch.items, AsyncGenerator)
            groups.setdefault(place if alone else inputs[place].modality, []).append(place)
        results: list[list[ItemResult]] = [[] for _ in batches]

        async def run(places: list[int]) -> None:
            tower = self.towers[inputs[places[0]].modality]
            items = batches[places[0]].items
            if isinstance(items, AsyncGenerator):
                async with aclosing(items):
                    try:
                        results[places[0]] = await tower.embed(
                            items, priority=priority, deadline=deadline
                        )
                    except EmbeddingError as error:
                        raise named(error, places[0] if len(batches) > 1 else None) from None
                return
            merged = [item for place in places for item in batches[place].items]  # type: ignore[union-attr]
            left = iter(await tower.embed(merged, priority=priority, deadline=deadline))
            for place in places:
                results[place] = list(islice(left, batches[place].count))

        await _together([run(places) for places in groups.values()])
        for each, done in zip(inputs, results, strict=True):
            self._metrics.embedded(each.modality, len(done), sum(item.tokens for item in done))
        return results

    # ── around requests ──

    def reopen(self) -> threading.Thread | None:
        """A tower is broken: stop answering, open the model again, and only then go on.

        Returns the thread that does it; None where that is already being done.
        """
        with self._lock:
            if self._closed or not self.healthy:
                return None
            self.healthy = False
        log.error("the model's self-test failed; it is opened again")
        thread = threading.Thread(target=self._rebuild, name="reopen", daemon=True)
        thread.start()
        return thread

    def _rebuild(self) -> None:
        broken = list(self.towers.values())
        self.dead = True
        if self._open_towers is not None:
            self.towers = dict(self._open_towers())
            self.dead = False
            self.healthy = not self._closed
        for tower in broken:
            tower.close()

    def _private_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._background is None:
                self._background = asyncio.new_event_loop()
                threading.Thread(
                    target=self._background.run_forever, name="engine", daemon=True
                ).start()
            return self._background


async def _expand(
    inputs: Sequence[Embeddable], place: int, media: MediaAccess, limits: InputLimits
) -> ItemBatch:
    try:
        return await inputs[place].expand(media, limits)
    except EmbeddingError as error:
        raise named(error, place if len(inputs) > 1 else None) from None


def _priority(batches: Sequence[ItemBatch]) -> Priority:
    bulk = any(batch.video for batch in batches) or sum(batch.count for batch in batches) > FEW
    return Priority.BULK if bulk else Priority.INTERACTIVE


async def _together(jobs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all; the first failure cancels the others and is raised."""
    if len(jobs) == 1:
        return await jobs[0]
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
