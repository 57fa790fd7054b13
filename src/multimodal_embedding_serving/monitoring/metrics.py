"""What the service counts, as Prometheus objects in a registry of their own."""

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

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 100, 300)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """One process's counts. Every method is thread-safe and takes microseconds."""

    def __init__(self) -> None:
        own = self.registry = CollectorRegistry()
        ProcessCollector(registry=own)
        self._requests = Counter(
            "mmes_requests", "Requests answered", ["route", "status"], registry=own
        )
        self._latency = Histogram(
            "mmes_request_seconds", "From request to answer", ["route"], buckets=SECONDS,
            registry=own,
        )  # fmt: skip
        self._errors = Counter("mmes_errors", "Requests refused or failed", ["code"], registry=own)
        self._items = Counter("mmes_items", "Items embedded", ["tower"], registry=own)
        self._tokens = Counter(
            "mmes_tokens", "Text tokens or image patches embedded", ["tower"], registry=own
        )
        self._batches = Histogram(
            "mmes_batch_items", "Items in a batch", ["tower"], buckets=SIZES, registry=own
        )
        self._queue = Gauge(
            "mmes_queue_items", "Items waiting for the graph", ["tower"], registry=own
        )
        self._lookups = Counter(
            "mmes_cache_lookups", "Items looked up in the cache", ["tower", "result"], registry=own
        )
        self._media = Counter("mmes_media_bytes", "Encoded media received", ["kind"], registry=own)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """A request was answered. `route` is the path's template, never what the caller wrote."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def failed(self, code: str) -> None:
        """A request got an error with this `EmbeddingError.code`."""
        self._errors.labels(code).inc()

    def embedded(self, tower: str, items: int, tokens: int) -> None:
        self._items.labels(tower).inc(items)
        self._tokens.labels(tower).inc(tokens)

    def received(self, kind: str, size: int) -> None:
        """`size` bytes of media: image or video."""
        self._media.labels(kind).inc(size)

    def batch_sizes(self, tower: str) -> Callable[[int], None]:
        """What a Batcher calls with the items of every batch."""
        return self._batches.labels(tower).observe

    def watch_queue(self, tower: str, waiting: Callable[[], int]) -> None:
        """Read a queue's depth whenever someone asks for the metrics."""
        self._queue.labels(tower).set_function(waiting)

    def cache_lookups(self, tower: str) -> Callable[[bool], None]:
        """What hears of every lookup in the cache: whether it was a hit."""
        hits, misses = (self._lookups.labels(tower, result) for result in ("hit", "miss"))
        return lambda hit: (hits if hit else misses).inc()

    def watch_cache(self, size: Callable[[], int]) -> None:
        """Read the cache's bytes whenever someone asks for the metrics."""
        gauge = Gauge("mmes_cache_bytes", "Memory of the cached vectors", registry=self.registry)
        gauge.set_function(size)

    def render(self) -> tuple[bytes, str]:
        """The page that Prometheus reads, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST
