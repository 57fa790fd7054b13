"""One loaded model: inputs in, unit vectors out.

The engine admits requests, picks the tower, enforces the deadline and assembles the results. It
runs on the event loop that awaits it; callers without one use a loop of the engine's own.
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
    Mapping,
    Sequence,
)
from contextlib import aclosing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np

from multimodal_embedding_serving.batching.priority import Priority
from multimodal_embedding_serving.batching.tower import ItemResult, Tower
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.conversion.serving_form import choose_form
from multimodal_embedding_serving.conversion.store import load_model, weights_to_check_later
from multimodal_embedding_serving.engine.admission import (
    Group,
    admit,
    choose_priority,
    group_inputs,
)
from multimodal_embedding_serving.engine.arguments import argument_names, read_settings
from multimodal_embedding_serving.engine.loader import ModelInfo, ModelLoader
from multimodal_embedding_serving.engine.results import (
    EmbeddingResult,
    assemble,
    renormalize,
    set_index,
)
from multimodal_embedding_serving.errors import (
    BundleError,
    DeadlineExceeded,
    DimensionsNotAllowed,
    EmbeddingError,
    ModalityNotSupported,
    NotReady,
)
from multimodal_embedding_serving.inputs.items import (
    Embeddable,
    Images,
    InputLimits,
    ItemBatch,
    Texts,
    Video,
)
from multimodal_embedding_serving.inputs.kinds import read_segment
from multimodal_embedding_serving.inputs.media_access import MediaAccess
from multimodal_embedding_serving.media.image import ImageSource
from multimodal_embedding_serving.monitoring.admission import Admission, QueueBound
from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.monitoring.request import current_request
from multimodal_embedding_serving.monitoring.tracing import span
from multimodal_embedding_serving.sdk.call import CallItem, EmbedCall
from multimodal_embedding_serving.sdk.embedder import AsyncEmbedder, Embedded, Embedder
from multimodal_embedding_serving.sdk.results import VideoFrame, VideoVectors
from multimodal_embedding_serving.sdk.similarity import Calibration
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Modality, Progress, Row, ignore_progress

T = TypeVar("T")

log = logging.getLogger(__name__)

_LATE = (
    "the request was not completed within {seconds:g} s (EMBEDDING_REQUEST_TIMEOUT_SEC); send "
    "less, or ask for a higher value"
)


class Engine(Embedder, AsyncEmbedder):
    """One loaded model. Thread-safe, and usable from several event loops at once.

    `embed`, `embed_texts`, `embed_images` and `embed_video` block; `aembed` takes what `embed`
    takes and runs on the event loop that awaits it.
    """

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
        self._media = media or open_media(settings, self._metrics)
        self._metrics.describe_model(
            info.id, info.device, info.backend, info.precision, info.dimension, info.fingerprint
        )
        self._lock = threading.Lock()
        self._queue = QueueBound(settings.queue_limit)
        for name, bound in (("items", self._queue), *self._media.bounds.items()):
            self._metrics.watch_bound(name, bound)
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
        Raises TypeError for an unknown argument, and SettingsError for a value that is not allowed.
        """
        settings = read_settings(model, settings, overrides)
        with argument_names(overrides):
            return cls._load(settings, progress, metrics or Metrics())

    @classmethod
    def _load(cls, settings: Settings, progress: Progress, metrics: Metrics) -> Engine:
        media = open_media(settings, metrics)
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

    def __repr__(self) -> str:
        info = self.info
        closed = ", closed" if self._closed else ""
        return f"Engine({info.id!r}, device={info.device!r}, dimension={info.dimension}{closed})"

    @property
    def settings(self) -> Settings:
        """The settings that the engine was opened with."""
        return self._settings

    async def embed_inputs(
        self,
        inputs: Sequence[Embeddable],
        *,
        dimensions: int | None = None,
        deadline: float | None = None,
        priority: Priority | None = None,
    ) -> list[EmbeddingResult]:
        """Embed inputs -> one result each, in order.

        `deadline` is a time.monotonic(), or inf; None: EMBEDDING_REQUEST_TIMEOUT_SEC from now.

        Raises the first error. Its index is that of the input if there are several, and that of
        the item within the only input otherwise.
        """
        size = self._size(dimensions)
        batches, results = await self._results(inputs, deadline, priority)
        several = len(batches) > 1
        assembled = [
            assemble(batch, results[place], size, place if several else None)
            for place, batch in enumerate(batches)
        ]
        request = current_request.get()
        if request is not None:
            request.items += sum(map(_count_embedded, results))
        return assembled

    async def _results(
        self,
        inputs: Sequence[Embeddable],
        deadline: float | None = None,
        priority: Priority | None = None,
    ) -> tuple[list[ItemBatch], list[list[ItemResult]]]:
        """Expand inputs and embed their items; an item's error is in its result."""
        self._check(inputs)
        allowed = self._settings.request_timeout
        if deadline is None:
            deadline = time.monotonic() + allowed
        remaining = None if deadline == math.inf else deadline - time.monotonic()
        try:
            async with asyncio.timeout(remaining) as scope:
                batches = [
                    await _expand(inputs, place, self._media, self._limits)
                    for place in range(len(inputs))
                ]
                self._limits.check(sum(1 if batch.video else batch.count for batch in batches))
                with span("embed", {"mmes.inputs": len(batches)}):
                    results = await self._run(
                        inputs, batches, priority or choose_priority(batches, self._queue), deadline
                    )
        except TimeoutError:
            if scope.expired():
                raise DeadlineExceeded(_LATE.format(seconds=allowed)) from None
            raise
        return batches, results

    # ── the verbs of Embedder and AsyncEmbedder ──

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on an event loop of the engine's own, and wait for its result."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._private_loop())
        try:
            return future.result()
        finally:
            future.cancel()

    def _embed_call(self, call: EmbedCall) -> Embedded:
        return self.run(self._answer(call))

    def _calibration(self) -> Calibration:
        return self.info.calibration

    async def _acalibration(self) -> Calibration:
        return self.info.calibration

    async def _answer(self, call: EmbedCall) -> Embedded:
        size = self._size(call.dimensions)
        items = await asyncio.to_thread(lambda: list(call.items()))
        if call.argument == "video":
            return await self._answer_videos(call, items), size
        if call.argument == "texts":
            items = [item for item in items if self._admits_text(call, item)]
            texts = [item.value for item in items]
            source: Embeddable = Texts(texts, call.role, call.instruction)
        else:
            source = Images([item.value for item in items])
        _, (results,) = await self._results([source])
        found = {}
        for item, result in zip(items, results, strict=True):
            if result.error is not None:
                call.fail(item, result.error)
            elif result.vector is not None:
                found[item.index] = result.vector
        if size < self.info.dimension and found:
            rows = renormalize(np.stack(list(found.values()))[:, :size])
            found = dict(zip(found, rows, strict=True))
        return found, size

    def _admits_text(self, call: EmbedCall, item: CallItem) -> bool:
        try:
            self._limits.check_text(item.value)
        except EmbeddingError as error:
            call.fail(item, error)
            return False
        return True

    async def _answer_videos(
        self, call: EmbedCall, items: Sequence[CallItem]
    ) -> dict[int, VideoVectors]:
        """One video after the other: each has the deadline of a request, and threads of its own."""
        segment = read_segment(call.segment, self._media.segment)
        found = {}
        for item in items:
            source = Video.of(item.value, segment)
            try:
                (result,) = await self.embed_inputs([source], dimensions=call.dimensions)
            except EmbeddingError as error:
                call.fail(item, error)
            else:
                frames = [VideoFrame(each.index, each.timestamp) for each in result.frames or ()]
                found[item.index] = VideoVectors(result.vectors, frames)
        return found

    def preprocess_image(self, image: ImageSource | Path) -> Row:
        """The pixels that the image graph takes, uint8 [height, width, 3]: resized and cropped.

        Raises ModalityNotSupported, and the errors of an image that can't be decoded.
        """
        self._check([Images([image])])
        return self.towers["image"].prepare(image).row

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

    async def _run(
        self,
        inputs: Sequence[Embeddable],
        batches: Sequence[ItemBatch],
        priority: Priority,
        deadline: float,
    ) -> list[list[ItemResult]]:
        """Results by batch."""
        groups = group_inputs(inputs, batches, self.towers)
        results: list[list[ItemResult]] = [[] for _ in batches]

        async def run(group: Group, admission: Admission) -> None:
            embed = partial(
                group.tower.embed, priority=priority, deadline=deadline, admission=admission
            )
            first = group.numbers[0]
            items = batches[first].items
            if isinstance(items, AsyncGenerator):
                async with aclosing(items):
                    try:
                        results[first] = await embed(items)
                    except EmbeddingError as error:
                        raise set_index(error, first if len(batches) > 1 else None) from None
                return
            merged = [item for number in group.numbers for item in batches[number].items]  # type: ignore[union-attr]
            remaining = iter(await embed(merged))
            for number in group.numbers:
                results[number] = list(islice(remaining, batches[number].count))

        with admit(batches, groups, self._queue) as admissions:
            await _run_all([run(*each) for each in zip(groups, admissions, strict=True)])
        for each, items_of_input in zip(inputs, results, strict=True):
            tokens = sum(item.tokens for item in items_of_input)
            self._metrics.count_items(each.modality, _count_embedded(items_of_input), tokens)
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


def open_media(settings: Settings, metrics: Metrics) -> MediaAccess:
    """Access to media whose sizes and times are counted in `metrics`."""
    return MediaAccess.from_settings(settings, metrics.count_media, metrics.stage_times("image"))


def _count_embedded(results: Sequence[ItemResult]) -> int:
    return sum(result.error is None for result in results)


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
