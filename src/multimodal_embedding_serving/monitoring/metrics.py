"""The service's metrics, as Prometheus objects in their own registry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
)

from multimodal_embedding_serving.monitoring.admission import Bound
from multimodal_embedding_serving.types import StageTimer

LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 100, 300)
STAGE_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
INFO_LABELS = ("model", "device", "backend", "precision", "dimension", "fingerprint", "version")


@dataclass(frozen=True, slots=True)
class _WithoutCreated:
    """A registry's metrics without the `_created` series: one more for each counter and histogram,
    which nobody queries. The library's own switch is global, and so it is not ours to set."""

    registry: CollectorRegistry

    def collect(self) -> Iterator[Metric]:
        for metric in self.registry.collect():
            metric.samples = [each for each in metric.samples if not _is_created(each.name)]
            yield metric


def _is_created(name: str) -> bool:
    return name.endswith("_created")


class Metrics:
    """The metrics of one process. Every method is thread-safe and takes microseconds."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        self._add_model_gauges(own)
        self._add_bound_gauges(own)
        self._stages = Histogram(
            "mmes_stage_seconds", "Seconds by stage: per batch for compute, else per item or slice",
            ["stage", "tower"], buckets=STAGE_BUCKETS, registry=own,
        )  # fmt: skip
        self._requests = Counter(
            "mmes_requests", "Responses sent", ["route", "status"], registry=own
        )
        self._latency = Histogram(
            "mmes_request_seconds", "Seconds from request to response", ["route"],
            buckets=LATENCY_BUCKETS, registry=own,
        )  # fmt: skip
        self._errors = Counter(
            "mmes_errors", "Requests that were rejected or failed", ["code"], registry=own
        )
        self._items = Counter("mmes_items", "Items embedded", ["tower"], registry=own)
        self._tokens = Counter(
            "mmes_tokens", "Text tokens or image patches embedded", ["tower"], registry=own
        )
        self._batches = Histogram(
            "mmes_batch_items",
            "Items in a batch",
            ["tower"],
            buckets=BATCH_SIZE_BUCKETS,
            registry=own,
        )
        self._queue = Gauge(
            "mmes_queue_items", "Items waiting for the graph", ["tower"], registry=own
        )
        self._lookups = Counter(
            "mmes_cache_lookups", "Items looked up in the cache", ["tower", "result"], registry=own
        )
        self._media = Counter("mmes_media_bytes", "Encoded media received", ["kind"], registry=own)
        self._cache = Gauge("mmes_cache_bytes", "Memory of the cached vectors", registry=own)

    def _add_model_gauges(self, own: CollectorRegistry) -> None:
        """What is loaded, and how far loading is."""
        self._info = Gauge("mmes_info", "1 for each loaded model", INFO_LABELS, registry=own)
        self._ready = Gauge("mmes_ready", "1 if the server accepts requests", registry=own)
        self._load_progress = Gauge(
            "mmes_load_progress", "Share of the current stage of loading that is done", registry=own
        )
        self._load_seconds = Gauge(
            "mmes_load_seconds", "Seconds that loading the model took", registry=own
        )

    def _add_bound_gauges(self, own: CollectorRegistry) -> None:
        """What clients hold of what is bounded, and who waits."""
        self._held, self._waiting, self._clients, self._limits = (
            Gauge(f"mmes_bound_{figure}", description, ["bound"], registry=own)
            for figure, description in (
                ("held", "What requests hold: items, fetches, videos, bytes of memory"),
                ("waiting", "Fetches or videos that wait for their turn"),
                ("clients", "Clients that hold some of it or wait for it"),
                ("limit", "The most that requests may hold together"),
            )
        )

    def describe_model(
        self,
        model: str,
        device: str,
        backend: str,
        precision: str,
        dimension: int,
        fingerprint: str,
    ) -> None:
        """Add a loaded model to `mmes_info`."""
        facts = (model, device, backend, precision, str(dimension), fingerprint)
        self._info.labels(*facts, version("multimodal-embedding-serving")).set(1)

    def watch_readiness(self, ready: Callable[[], bool]) -> None:
        """Ask whether requests are accepted whenever the metrics are read."""
        self._ready.set_function(lambda: float(ready()))

    def note_loading(self, share: float) -> None:
        """Set the share, 0 to 1, of the current stage of loading that is done."""
        self._load_progress.set(share)

    def note_loaded(self, seconds: float) -> None:
        """Set how long loading took."""
        self._load_seconds.set(seconds)
        self._load_progress.set(1)

    def stage_times(self, tower: str) -> StageTimer:
        """A callback for the seconds of every stage of this tower's items."""
        return lambda stage, seconds: self._stages.labels(stage, tower).observe(seconds)

    def count_response(self, route: str, status: int, seconds: float) -> None:
        """Count a response. `route` is the path's template, never what the client sent."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def count_error(self, code: str) -> None:
        """Count an error response with this `EmbeddingError.code`."""
        self._errors.labels(code).inc()

    def count_items(self, tower: str, items: int, tokens: int) -> None:
        self._items.labels(tower).inc(items)
        self._tokens.labels(tower).inc(tokens)

    def count_media(self, kind: str, size: int) -> None:
        """Count `size` bytes of media. `kind` is image or video."""
        self._media.labels(kind).inc(size)

    def batch_sizes(self, tower: str) -> Callable[[int], None]:
        """A callback for the number of items of every batch."""
        return self._batches.labels(tower).observe

    def watch_queue(self, tower: str, waiting: Callable[[], int]) -> None:
        """Read the length of a queue whenever the metrics are read."""
        self._queue.labels(tower).set_function(waiting)

    def watch_bound(self, name: str, bound: Bound) -> None:
        """Read what a bound holds whenever the metrics are read."""
        figures = {
            self._held: lambda: bound.held,
            self._waiting: lambda: bound.waiting,
            self._clients: lambda: bound.clients,
            self._limits: lambda: bound.limit,
        }
        for gauge, read in figures.items():
            gauge.labels(name).set_function(read)

    def cache_lookups(self, tower: str) -> Callable[[bool], None]:
        """A callback for every lookup in the cache: whether it was a hit."""
        hits, misses = (self._lookups.labels(tower, result) for result in ("hit", "miss"))
        return lambda hit: (hits if hit else misses).inc()

    def watch_cache(self, size: Callable[[], int]) -> None:
        """Read the size of the cache in bytes whenever the metrics are read."""
        self._cache.set_function(size)

    def render(self) -> tuple[bytes, str]:
        """The page that Prometheus scrapes, and its content type."""
        return generate_latest(_WithoutCreated(self.registry)), CONTENT_TYPE_LATEST
