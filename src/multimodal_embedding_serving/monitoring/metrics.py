"""The service's metrics, as Prometheus objects in their own registry."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from multimodal_embedding_serving.monitoring.admission import Bound

LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 100, 300)
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one process. Every method is thread-safe and takes microseconds."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
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
        self._held, self._waiting, self._clients, self._limits = (
            Gauge(f"mmes_bound_{figure}", description, ["bound"], registry=own)
            for figure, description in (
                ("held", "What requests hold: items, fetches, videos, bytes of memory"),
                ("waiting", "Fetches or videos that wait for their turn"),
                ("clients", "Clients that hold some of it or wait for it"),
                ("limit", "The most that requests may hold together"),
            )
        )
        self._lookups = Counter(
            "mmes_cache_lookups", "Items looked up in the cache", ["tower", "result"], registry=own
        )
        self._media = Counter("mmes_media_bytes", "Encoded media received", ["kind"], registry=own)

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
        gauge = Gauge("mmes_cache_bytes", "Memory of the cached vectors", registry=self.registry)
        gauge.set_function(size)

    def render(self) -> tuple[bytes, str]:
        """The page that Prometheus scrapes, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
