"""One loaded model: inputs in, unit vectors out.

The engine admits requests, picks the tower, enforces the deadline and assembles the results. It
runs on the event loop that awaits it; `embed` is for callers without one.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import (
    AsyncGenerator,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self

from multimodal_embedding_serving.batching.priority import Priority
from multimodal_embedding_serving.batching.tower import ItemResult, Tower
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.conversion.serving_form import choose_form
from multimodal_embedding_serving.conversion.store import load_model, weights_to_check_later
from multimodal_embedding_serving.engine.loader import ModelInfo, ModelLoader
from multimodal_embedding_serving.engine.results import EmbeddingResult, assemble, set_index
from multimodal_embedding_serving.errors import (
    BundleError,
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

MAX_INTERACTIVE_ITEMS = 32
"""Requests with more items than this have bulk priority, as do videos."""


class Engine:
    """One loaded model. Thread-safe, and usable from several event loops at once."""

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
        self._media = media or MediaAccess.from_settings(settings, self._metrics.count_media)
        self._lock = threading.Lock()
        self._admitted = 0
        self._pace = 1.0
        self._closed = False
        self._background: asyncio.AbstractEventLoop | None = None
        self.healthy = True
        """False while a model that failed its self-test is being reloaded, and once closed."""
        self.dead = False
        """The model failed its self-test and could not be reloaded."""

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
        """Load a model, converting it first if necessary. Blocks.

        `overrides` are fields of Settings. `progress(stage, share)` is called as loading proceeds.
        """
        settings = settings or Settings.from_env(model=model, **overrides)
        metrics = metrics or Metrics()
        media = MediaAccess.from_settings(settings, metrics.count_media)
        loaded_model = load_model(settings, progress)
        form = choose_form(loaded_model, settings, progress)
        progress("opening the model", 0.0)
        loader = ModelLoader(loaded_model, settings, media, metrics, form=form)
        towers = loader.open()
        info = loader.describe(towers)

        def reopen() -> Mapping[Modality, Tower]:
            if isinstance(loaded_model, Bundle) and settings.verify != "off":
                loaded_model.check()
            return loader.open()

        engine = cls(info, towers, settings, media=media, metrics=metrics, reopen=reopen)
        loader.on_broken = engine.reopen
        if isinstance(loaded_model, Bundle) and (
            names := weights_to_check_later(loaded_model, settings)
        ):
            check = partial(engine.check_in_background, loaded_model, names)
            threading.Thread(target=check, name="verify", daemon=True).start()
        return engine

    async def aembed(
        self,
        inputs: Sequence[Embeddable],
        *,
        dimensions: int | None = None,
        deadline: float | None = None,
        priority: Priority | None = None,
    ) -> list[EmbeddingResult]:
        """Embed inputs -> one result each, in order. `deadline` is a time.monotonic().

        Raises the first error. Its index is that of the input if there are several, and that of
        the item within the only input otherwise.
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
                message = "the request missed its deadline (see EMBEDDING_REQUEST_TIMEOUT_SEC)"
                raise DeadlineExceeded(message) from None
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
        """Embed texts, images, or the frames of one video -> float32 [n, dimension]. Blocks.

        A string is a query and a list holds documents, unless `role` says otherwise. Images are
        paths, bytes, PIL images, arrays or URLs; a video is a path, bytes or a URL.
        """
        arguments = [each for each in (texts, images, video) if each is not None]
        if len(arguments) != 1:
            raise InvalidInput("exactly one of texts, images and video is required")
        source: Embeddable
        if texts is not None:
            single = isinstance(texts, str)
            batch = [texts] if isinstance(texts, str) else list(texts)
            source = Texts(batch, role or ("query" if single else "document"), instruction)
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
        """Fail waiting items, stop the threads, free the device."""
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
        """Close, including the connections of the running event loop."""
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
            raise NotReady("the model failed its self-test and is being reloaded; retry shortly")
        for place, each in enumerate(inputs):
            if each.modality not in self.towers:
                names = ", ".join(self.info.modalities)
                raise ModalityNotSupported(
                    f"the model {self.info.id} does not embed {each.modality} input, only {names}",
                    index=place if len(inputs) > 1 else None,
                    param="input",
                )

    def _size(self, dimensions: int | None) -> int:
        """The length of the vectors to return. Raises DimensionsNotAllowed."""
        full, minimum = self.info.dimension, self.info.min_dimension
        if dimensions is None or dimensions == full:
            return full
        if minimum <= dimensions < full:
            return dimensions
        allowed = f"{minimum} to {full}" if minimum < full else f"only {full}"
        raise DimensionsNotAllowed(
            f"dimensions={dimensions} is not allowed for {self.info.id}; allowed: {allowed}",
            param="dimensions",
        )

    @contextmanager
    def _admit(self, batches: Sequence[ItemBatch]) -> Iterator[None]:
        """Count the items in and out. A request larger than the queue may enter if it is alone."""
        self._limits.check(sum(1 if batch.video else batch.count for batch in batches))
        limit = self._settings.queue_limit
        count = sum(batch.count for batch in batches)
        with self._lock:
            if self._admitted and self._admitted + count > limit:
                wait = min(60, math.ceil(self._pace))
                raise QueueFull(
                    f"the queue has no room for {count:,} more items (limit: {limit:,}, "
                    "EMBEDDING_QUEUE_LIMIT); retry later",
                    retry_after=wait,
                )
            self._admitted += count
        request = current_request.get()
        if request is not None:
            request.items += count
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
        """Results by batch. A tower's batches are embedded together; streams each on their own."""
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
                        raise set_index(error, places[0] if len(batches) > 1 else None) from None
                return
            merged = [item for place in places for item in batches[place].items]  # type: ignore[union-attr]
            remaining = iter(await tower.embed(merged, priority=priority, deadline=deadline))
            for place in places:
                results[place] = list(islice(remaining, batches[place].count))

        await _run_all([run(places) for places in groups.values()])
        for each, items_of_input in zip(inputs, results, strict=True):
            tokens = sum(item.tokens for item in items_of_input)
            self._metrics.count_items(each.modality, len(items_of_input), tokens)
        return results

    # ── around requests ──

    def reopen(self) -> threading.Thread | None:
        """Reload the model after a failed self-test; requests fail with NotReady until it is done.

        Returns the thread that reloads it; None if it is being reloaded already.
        """
        with self._lock:
            if self._closed or not self.healthy:
                return None
            self.healthy = False
        log.error("the model failed its self-test and is being reloaded")
        thread = threading.Thread(target=self._rebuild, name="reopen", daemon=True)
        thread.start()
        return thread

    def check_in_background(self, bundle: Bundle, names: Collection[str]) -> None:
        """Compare files with their checksums while requests are served; damage ends that."""
        try:
            bundle.check(names)
        except BundleError as error:
            log.error("%s", error.message)
            self.reopen()
        else:
            log.info("%s: the weights are as they were converted", bundle.manifest.model)

    def _rebuild(self) -> None:
        broken = list(self.towers.values())
        self.dead = True
        try:
            if self._open_towers is not None:
                self.towers = dict(self._open_towers())
                self.dead = False
                self.healthy = not self._closed
        except EmbeddingError as error:
            log.error("could not reload the model: %s", error.message)
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
        raise set_index(error, place if len(inputs) > 1 else None) from None


def _priority(batches: Sequence[ItemBatch]) -> Priority:
    bulk = (
        any(batch.video for batch in batches)
        or sum(batch.count for batch in batches) > MAX_INTERACTIVE_ITEMS
    )
    return Priority.BULK if bulk else Priority.INTERACTIVE


async def _run_all(jobs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Await all at once; the first failure cancels the others and is raised."""
    if len(jobs) == 1:
        return await jobs[0]
    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(job)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
