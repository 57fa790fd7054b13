"""From a bundle or a torch model to towers that have passed their self-test."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from multimodal_embedding_serving.backends import compile_tower
from multimodal_embedding_serving.backends.quantization import COMPRESSED, group_size
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
from multimodal_embedding_serving.conversion.parity import ParityFailed, check_opened
from multimodal_embedding_serving.conversion.serving_form import ServingForm
from multimodal_embedding_serving.engine.cache import TowerCache, VectorCache
from multimodal_embedding_serving.engine.preprocess import (
    prepare_images,
    prepare_texts,
    time_preparing,
)
from multimodal_embedding_serving.errors import BundleError, EmbeddingError, SelfTestFailed
from multimodal_embedding_serving.graph.runtime import keeping_locale
from multimodal_embedding_serving.inputs.items import TextItem
from multimodal_embedding_serving.inputs.media_access import MediaAccess
from multimodal_embedding_serving.media.image import JpegDecode
from multimodal_embedding_serving.monitoring.memory import free_memory
from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.sdk.similarity import Calibration
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.image import ImageTransform
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Features, Graph, Modality

log = logging.getLogger(__name__)

TEXT_BATCH, TEXT_COST = 64, 8192
"""Texts per call, and tokens per call including padding."""
TEXT_WINDOW, TEXT_SLICE = 2048, 32
"""Preprocessed texts are small: all of a request may be queued at once, so that texts of similar
length end up in one batch."""
IMAGE_BATCH = 8
"""Images per call on a CPU, where larger batches gain nothing (performance.md)."""
IMAGE_WINDOW = 16
"""Images of one request in memory at a time: two batches. A raw 4K frame has 25 MB."""

REPLICA_HEADROOM = 4
"""Free memory that a copy of a graph requires, as a multiple of its file: float16 weights become
float32, and as much again must stay free."""

UNIT_TOLERANCE = 0.02
"""How far a norm may be from 1: bf16 has 8 bits of precision."""
MIN_DISTANCE = 1e-3
"""Vectors of different inputs that are closer than this are equal up to rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """The metadata of the loaded model."""

    id: str
    family: str
    dimension: int
    min_dimension: int
    """The shortest vector that `dimensions` may request; equal to `dimension` if it is fixed."""
    modalities: tuple[Modality, ...]
    device: str
    backend: str
    precision: str
    """How the weights are stored."""
    inference: str = "f32"
    """The precision in which the graph computes."""
    fingerprint: str
    """Vectors with equal fingerprints are comparable."""
    dynamic_quantization_group_size: int = 0
    """Values of an activation that share a scale where it is quantized to INT8; 0: it is not."""
    notice: str | None = None
    notices: tuple[str, ...] = ()
    """What to know about the model and about how this machine serves it."""
    text_length: int | None = None
    """Tokens after which a text is truncated. None: the model has no text tower."""
    image_size: int | None = None
    """Pixels of a side. None: the model has no image tower."""
    logit_scale: float | None = None
    """What the model's training multiplied a cosine by. None: the checkpoint does not say."""
    logit_bias: float | None = None
    """What SigLIP's training added to a scaled cosine. None: other families have none."""
    jpeg_decode: JpegDecode | None = None
    """None: the model has no image tower."""
    parity: Mapping[str, Any] | None = None
    """The accuracy report: the lowest and mean cosine of each tower. None: not measured."""

    @property
    def calibration(self) -> Calibration:
        return Calibration(self.logit_scale, self.logit_bias)


def probes(modality: Modality) -> list[Any]:
    """Two items that every model must distinguish."""
    if modality == "text":
        return [TextItem("a photo of a cat"), TextItem("the stock market fell sharply today")]
    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    gradient = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], 255 - ramp[None]), -1)
    stripes = np.where(np.arange(256)[:, None] // 16 % 2, ramp[None, :], 255 - ramp[None, :])
    return [gradient, np.repeat(stripes[:, :, None], 3, axis=2).astype(np.uint8)]


def self_test(graph: Graph, prepare: Prepare, modality: Modality) -> None:
    """Check that two different inputs get finite and different vectors of unit length.

    Calls the graph directly, so that it can be tested while its batcher suspects it. Raises
    SelfTestFailed.
    """
    rows = []
    for features in prepare(probes(modality)):
        if isinstance(features, EmbeddingError):
            raise SelfTestFailed(f"{modality}: could not preprocess a probe: {features.message}")
        if isinstance(features, Features):
            rows.append(features.row)
    vectors = graph(rows)
    if not np.isfinite(vectors).all():
        raise SelfTestFailed(
            f"{modality}: the model returned NaN or infinity instead of finite vectors"
        )
    if np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > UNIT_TOLERANCE:
        raise SelfTestFailed(f"{modality}: the model's vectors do not have unit length")
    if np.linalg.norm(vectors[0] - vectors[1]) < MIN_DISTANCE:
        raise SelfTestFailed(f"{modality}: the model returned the same vector for different inputs")


class ModelLoader:
    """Opens the towers of one model; may be called again to reload them."""

    def __init__(
        self,
        model: Bundle | TorchModel,
        settings: Settings,
        media: MediaAccess,
        metrics: Metrics,
        *,
        static: bool | None = None,
        form: ServingForm | None = None,
    ) -> None:
        """`static`: compile with static shapes; None: only if the device requires them.

        `form` is what the accuracy check of this machine chose; None: serve as `settings` say.
        """
        self._form = form or ServingForm(settings, model.manifest.parity)
        settings = self._form.settings
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
        """Called on a worker's thread when a tower in use fails its self-test."""

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
        jpeg_decode = self._media.jpeg_decode if image else None
        backend = "openvino" if isinstance(self._model, Bundle) else "torch"
        suffix = inference if backend == "openvino" else f"torch-{inference}"
        parts = [manifest.fingerprint, suffix]
        compressed = backend == "openvino" and manifest.precision in COMPRESSED
        group = group_size(self._settings) if compressed else 0
        if group:
            parts.append(f"dq{group}")
        if jpeg_decode == "exact":
            parts.append("exactjpeg")
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
            fingerprint="-".join(parts),
            dynamic_quantization_group_size=group,
            notices=self._form.notices,
            notice=manifest.notice,
            text_length=self._text_spec(text.transform)["max_length"] if text else None,
            image_size=image.transform["size"] if image else None,
            logit_scale=manifest.extras.get("logit_scale"),
            logit_bias=manifest.extras.get("logit_bias"),
            jpeg_decode=jpeg_decode,
            parity=self._form.parity or None,
        )

    def _shape(self, transform: Mapping[str, Any]) -> StaticShape | None:
        return choose_shape(transform, self._settings) if self._static else None

    def _text_spec(self, transform: Mapping[str, Any]) -> dict[str, Any]:
        """The transform, with its maximum length limited by the settings and the graph."""
        if transform.get("fixed_length"):
            return dict(transform)
        limit = self._settings.text_limit(transform.get("default_length"))
        max_length = min(transform["max_length"], limit)
        shape = self._shape(transform)
        if shape is not None and not self._settings.chunk_long_text:
            max_length = min(max_length, shape.length or max_length)
        return {**transform, "max_length": max_length, "default_length": None}

    def _tower(self, modality: Modality) -> Tower:
        lower_priority(WORKER_NICENESS if modality == "text" else IMAGE_NICENESS)
        spec = self._model.manifest.towers[modality].transform
        settings, shape = self._settings, self._shape(spec)
        tuned = None if shape else find_tuned_config(self._model, modality, settings)
        if tuned:
            settings = tuned.applied(settings)
            log.info("%s: %s", modality, tuned)
        prepare_with = self._preprocessing(modality, spec, shape)
        if modality == "text":
            batch = tuned.batch if tuned else TEXT_BATCH
            cost, window, slice_size = TEXT_COST, TEXT_WINDOW, TEXT_SLICE
        else:
            default = IMAGE_BATCH if settings.device == "CPU" else settings.image_batch
            batch = min(settings.image_batch, tuned.batch if tuned else default)
            cost, slice_size = batch * spec["patches"], 1
            window = settings.frame_batch or max(IMAGE_WINDOW, 2 * batch)
        batch = batch if shape is None else 1
        graph, prepare = self._open_graph(modality, settings, shape), prepare_with(None)
        self_test(graph, prepare, modality)
        batcher = Batcher(
            graph,
            name=modality,
            max_batch=batch,
            max_cost=cost,
            on_batch=self._metrics.batch_sizes(modality),
            on_stage=self._metrics.stage_times(modality),
            on_suspect=partial(self._test_suspect, graph, prepare, modality),
            open_replica=self._replica_opener(modality, settings, prepare),
        )
        self._metrics.watch_queue(modality, lambda: batcher.waiting)
        return Tower(
            modality,
            graph,
            self._in_use(prepare_with, modality),
            pool=self._media.workers,
            batcher=batcher,
            window=window,
            slice_size=slice_size,
        )

    def _open_graph(
        self, modality: Modality, settings: Settings, shape: StaticShape | None
    ) -> Graph:
        """A tower's graph whose vectors are those of the manifest.

        If they are not, it is compiled once more without what earlier starts left.
        """
        graph = compile_tower(self._model, modality, settings, shape)
        if not isinstance(self._model, Bundle):
            return graph
        try:
            check_opened(graph, self._model, modality, shape, self._form.parity)
        except ParityFailed as error:
            graph.close()
            if not settings.model_cache:
                raise
            log.warning("%s; compiling it again", error.message)
            graph = compile_tower(
                self._model, modality, replace(settings, model_cache=False), shape
            )
            check_opened(graph, self._model, modality, shape, self._form.parity)
        return graph

    def _replica_opener(
        self, modality: Modality, settings: Settings, prepare: Prepare
    ) -> OpenReplica | None:
        """The function that opens a copy of a tower's graph; None if there is to be no copy.

        Only OpenVINO graphs on a CPU up to the size in the settings get one: elsewhere a copy would
        take the device's memory, and torch would share its threads with it.
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
            # Reading a compiled graph from OpenVINO's cache would set the C locale for a moment,
            # while other threads are at work; compiling doesn't.
            uncached = replace(settings, model_cache=False)
            try:
                if settings.verify != "off":  # since the model was opened, hours may have passed
                    model.check([model.graph(modality).name, model.weights(modality).name])
                copy = compile_tower(model, modality, uncached)
                check_opened(copy, model, modality, parity=self._form.parity)
            except BundleError as error:
                log.error("%s; serving without an interactive replica", error.message)
                return None
            self_test(copy, prepare, modality)
            log.info("%s: the interactive replica is open", modality)
            return copy

        return open_copy

    def _preprocessing(
        self, modality: Modality, spec: Mapping[str, Any], shape: StaticShape | None
    ) -> Callable[[TowerCache | None], Prepare]:
        """The preprocessing of a tower, as a function of its cache."""
        if modality == "image":
            transform = ImageTransform.from_manifest(spec)
            return partial(prepare_images, transform, self._media)
        tokenizer = self._model.tokenizer
        if tokenizer is None:
            raise BundleError(f"{self._model.manifest.model}: the tokenizer is missing")
        window = None if shape is None else shape.length
        text_transform = TextTransform(tokenizer, self._text_spec(spec), window=window)
        return partial(prepare_texts, text_transform)

    def _in_use(
        self, prepare_with: Callable[[TowerCache | None], Prepare], modality: Modality
    ) -> Prepare:
        """The preprocessing of a tower in use: with its cache, and timed."""
        prepare = prepare_with(self._tower_cache(modality))
        return time_preparing(prepare, self._metrics.stage_times(modality))

    def _tower_cache(self, modality: Modality) -> TowerCache | None:
        if self._cache is None:
            return None
        scope = f"{self._model.manifest.fingerprint} {modality}"
        return TowerCache(self._cache, scope, self._metrics.cache_lookups(modality))

    def _test_suspect(self, graph: Graph, prepare: Prepare, modality: Modality) -> None:
        """Test a tower in use; a failure calls `on_broken` before it is raised."""
        passed = False
        try:
            self_test(graph, prepare, modality)
            passed = True
        finally:
            if not passed:
                self.on_broken()
