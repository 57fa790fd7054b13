"""From a model's name to towers that have passed their self-test."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from multimodal_embedding_serving.backends import compile_tower
from multimodal_embedding_serving.backends.static import StaticShape, choose_shape, is_static
from multimodal_embedding_serving.backends.tuning import find_tuned_config
from multimodal_embedding_serving.batching.batcher import Batcher
from multimodal_embedding_serving.batching.priority import (
    IMAGE_NICENESS,
    WORKER_NICENESS,
    lower_priority,
)
from multimodal_embedding_serving.batching.replica import OpenReplica
from multimodal_embedding_serving.batching.tower import Prepare, Tower
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.bundles.torch_model import TorchModel
from multimodal_embedding_serving.engine.cache import Recall, VectorCache
from multimodal_embedding_serving.engine.preprocess import prepare_images, prepare_texts
from multimodal_embedding_serving.errors import BundleError, EmbeddingError, SelfTestFailed
from multimodal_embedding_serving.graph.runtime import keeping_locale
from multimodal_embedding_serving.inputs.items import TextItem
from multimodal_embedding_serving.inputs.media_access import MediaAccess
from multimodal_embedding_serving.monitoring.memory import free_memory
from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.image import ImageTransform
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Features, Graph, Modality

log = logging.getLogger(__name__)

TEXT_BATCH, TEXT_COST = 64, 8192
"""Texts, and tokens once padded, of one call."""
TEXT_WINDOW, TEXT_SLICE = 2048, 32
"""Prepared texts are small: all of a request may wait, so that like lengths find each other."""
IMAGE_BATCH = 8
"""Pictures of one call on a CPU: more gain nothing there (performance.md)."""
IMAGE_WINDOW = 16
"""Pictures of one request in memory at a time: two batches. A raw 4K frame has 25 MB."""

REPLICA_HEADROOM = 4
"""Free memory that a copy of a graph asks for, over its file: float16 weights become float32, and
as much again stays free."""

UNIT_TOLERANCE = 0.02
"""How far from 1 a norm may be: bf16 keeps 8 bits of each number."""
LEAST_DISTANCE = 1e-3
"""Vectors of different inputs that are nearer than this are the same to rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What there is to know about the open model."""

    id: str
    family: str
    dimension: int
    min_dimension: int
    """The shortest vector that `dimensions` may ask for; `dimension` where cutting is refused."""
    modalities: tuple[Modality, ...]
    device: str
    backend: str
    precision: str
    """How the weights are stored."""
    inference: str = "f32"
    """The precision that the graph computes in."""
    fingerprint: str
    """Vectors with equal fingerprints may be compared."""
    notice: str | None = None
    text_length: int | None = None
    image_size: int | None = None
    logit_scale: float | None = None
    logit_bias: float | None = None
    parity: Mapping[str, Any] | None = None


def probes(modality: Modality) -> list[Any]:
    """Two raw items that every model must tell apart."""
    if modality == "text":
        return [TextItem("a photo of a cat"), TextItem("the stock market fell sharply today")]
    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    gradient = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], 255 - ramp[None]), -1)
    stripes = np.where(np.arange(256)[:, None] // 16 % 2, ramp[None, :], 255 - ramp[None, :])
    return [gradient, np.repeat(stripes[:, :, None], 3, axis=2).astype(np.uint8)]


def self_test(graph: Graph, prepare: Prepare, modality: Modality) -> None:
    """Two different inputs give finite, unit and different vectors, or SelfTestFailed.

    The graph is called directly: it can be tested while its batcher is suspicious of it.
    """
    rows = []
    for features in prepare(probes(modality)):
        if isinstance(features, EmbeddingError):
            raise SelfTestFailed(f"{modality}: a probe can't be prepared: {features.message}")
        if isinstance(features, Features):
            rows.append(features.row)
    vectors = graph(rows)
    if not np.isfinite(vectors).all():
        raise SelfTestFailed(f"{modality}: the model's vectors are not finite numbers")
    if np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > UNIT_TOLERANCE:
        raise SelfTestFailed(f"{modality}: the model's vectors do not have unit length")
    if np.linalg.norm(vectors[0] - vectors[1]) < LEAST_DISTANCE:
        raise SelfTestFailed(f"{modality}: the model gives different inputs the same vector")


class ModelLoader:
    """Opens the towers of one model, again if need be."""

    def __init__(
        self,
        model: Bundle | TorchModel,
        settings: Settings,
        media: MediaAccess,
        metrics: Metrics,
        *,
        static: bool | None = None,
    ) -> None:
        """`static`: compile static shapes; None: where the device takes no others."""
        self._model, self._settings = model, settings
        self._media, self._metrics = media, metrics
        if static is None:
            static = isinstance(model, Bundle) and is_static(settings.device)
        self._static = static
        self._cache: VectorCache | None = None
        if settings.cache_mb:
            self._cache = cache = VectorCache(settings.cache_mb << 20)
            metrics.watch_cache(lambda: cache.size)
        self.on_broken: Callable[[], object] = lambda: None
        """Called on a worker's thread when a tower in use has failed its self-test."""

    def open(self) -> dict[Modality, Tower]:
        """Raises SelfTestFailed, BundleError, SettingsError."""
        modalities = list(self._model.manifest.towers)
        with (
            keeping_locale(),
            ThreadPoolExecutor(len(modalities)) as threads,
        ):
            return dict(zip(modalities, threads.map(self._tower, modalities), strict=True))

    def describe(self, towers: Mapping[Modality, Tower]) -> ModelInfo:
        manifest = self._model.manifest
        inference = "+".join(sorted({tower.graph.precision for tower in towers.values()}))
        text, image = manifest.towers.get("text"), manifest.towers.get("image")
        backend = "openvino" if isinstance(self._model, Bundle) else "torch"
        told = inference if backend == "openvino" else f"torch-{inference}"
        return ModelInfo(
            id=manifest.model,
            family=manifest.family,
            dimension=manifest.dimension,
            min_dimension=manifest.min_dimension or manifest.dimension,
            modalities=tuple(towers),
            device=self._settings.device,
            backend=backend,
            precision=manifest.precision,
            inference=inference,
            fingerprint=f"{manifest.fingerprint}-{told}",
            notice=manifest.notice,
            text_length=self._text_spec(text.transform)["max_length"] if text else None,
            image_size=image.transform["size"] if image else None,
            logit_scale=manifest.extras.get("logit_scale"),
            logit_bias=manifest.extras.get("logit_bias"),
            parity=manifest.parity or None,
        )

    def _shape(self, transform: Mapping[str, Any]) -> StaticShape | None:
        return choose_shape(transform, self._settings) if self._static else None

    def _text_spec(self, transform: Mapping[str, Any]) -> dict[str, Any]:
        """The transform, its texts cut to what the settings and the graph allow."""
        if transform.get("fixed_length"):
            return dict(transform)
        longest = min(transform["max_length"], self._settings.max_length)
        if self._settings.max_length == Settings.default_of("max_length"):
            longest = min(longest, transform.get("default_length") or longest)
        shape = self._shape(transform)
        if shape is not None and not self._settings.chunk_long_text:
            longest = min(longest, shape.length or longest)
        return {**transform, "max_length": longest, "default_length": None}

    def _tower(self, modality: Modality) -> Tower:
        lower_priority(WORKER_NICENESS if modality == "text" else IMAGE_NICENESS)
        spec = self._model.manifest.towers[modality].transform
        settings, shape = self._settings, self._shape(spec)
        way = None if shape else find_tuned_config(self._model, modality, settings)
        if way:
            settings = way.applied(settings)
            log.info("%s: %s", modality, way)
        make = self._preparation(modality, spec, shape)
        if modality == "text":
            batch = way.batch if way else TEXT_BATCH
            cost, window, slice_size = TEXT_COST, TEXT_WINDOW, TEXT_SLICE
        else:
            best = IMAGE_BATCH if settings.device == "CPU" else settings.image_batch
            batch = min(settings.image_batch, way.batch if way else best)
            cost, slice_size = batch * spec["patches"], 1
            window = settings.frame_batch or max(IMAGE_WINDOW, 2 * batch)
        if shape is not None:
            batch = 1
        graph, prepare = compile_tower(self._model, modality, settings, shape), make(None)
        self_test(graph, prepare, modality)
        batcher = Batcher(
            graph,
            name=modality,
            max_batch=batch,
            max_cost=cost,
            on_batch=self._metrics.batch_sizes(modality),
            on_suspect=partial(self._examine, graph, prepare, modality),
            open_replica=self._replica(modality, settings, prepare),
        )
        self._metrics.watch_queue(modality, lambda: batcher.waiting)
        return Tower(
            modality,
            graph,
            make(self._recall(modality)),
            pool=self._media.workers,
            batcher=batcher,
            window=window,
            slice_size=slice_size,
        )

    def _replica(
        self, modality: Modality, settings: Settings, prepare: Prepare
    ) -> OpenReplica | None:
        """How to open a copy of a tower's graph: of OpenVINO's on a CPU, up to the settings' size.

        Elsewhere a copy would take a device's memory, and torch would share its threads with it.
        """
        model = self._model
        if not isinstance(model, Bundle) or settings.device != "CPU" or self._static:
            return None
        size = model.weights(modality).stat().st_size
        if size > settings.interactive_replica_max_mb << 20:
            return None

        def open_copy() -> Graph | None:
            if free_memory() < REPLICA_HEADROOM * size:
                log.warning("%s: not enough memory for an interactive replica", modality)
                return None
            # Reading the cache of compiled graphs would set the C locale for a moment, while others
            # are at work; compiling doesn't.
            copy = compile_tower(model, modality, replace(settings, model_cache=False))
            self_test(copy, prepare, modality)
            log.info("%s: the interactive replica is open", modality)
            return copy

        return open_copy

    def _preparation(
        self, modality: Modality, spec: Mapping[str, Any], shape: StaticShape | None
    ) -> Callable[[Recall | None], Prepare]:
        """How a tower prepares items, with the cache or without."""
        if modality == "image":
            transform = ImageTransform.from_manifest(spec)
            return partial(prepare_images, transform, self._media)
        tokenizer = self._model.tokenizer
        if tokenizer is None:
            raise BundleError(f"{self._model.manifest.model}: there is no tokenizer")
        longest = None if shape is None else shape.length
        read = TextTransform(tokenizer, self._text_spec(spec), window=longest)
        return partial(prepare_texts, read)

    def _recall(self, modality: Modality) -> Recall | None:
        if self._cache is None:
            return None
        mark = f"{self._model.manifest.fingerprint} {modality}"
        return Recall(self._cache, mark, self._metrics.cache_lookups(modality))

    def _examine(self, graph: Graph, prepare: Prepare, modality: Modality) -> None:
        """The self-test of a tower in use; the failure is told before it is raised."""
        passed = False
        try:
            self_test(graph, prepare, modality)
            passed = True
        finally:
            if not passed:
                self.on_broken()
