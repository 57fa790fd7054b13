"""OpenTelemetry traces, where an exporter is configured: a span for each request, one for its work.

Without `set_up` every call here does nothing, and nothing of OpenTelemetry is imported. Spans hold
methods, route templates, statuses and counts: no media, no texts, no URLs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from multimodal_embedding_serving.errors import MissingExtra

log = logging.getLogger(__name__)

Attributes = Mapping[str, str | int | float | bool]


class Tracing:
    """The process's tracer, once it is set up."""

    tracer: Any = None
    provider: Any = None


def set_up(version: str) -> None:
    """Export spans to where OTEL_EXPORTER_OTLP_ENDPOINT says; OpenTelemetry's own variables name
    the service, headers and sampling. Without the extra `otel` a log line says what is missing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("%s", MissingExtra("tracing", "otel"))
        return
    named = {SERVICE_VERSION: version}
    resource = Resource.create(named)
    if str(resource.attributes.get(SERVICE_NAME)).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "multimodal-embedding-serving"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    use(provider)


def use(provider: Any) -> None:
    """Make spans with this provider from now on; None: no more."""
    Tracing.provider = provider
    Tracing.tracer = None if provider is None else provider.get_tracer(__package__)


def close() -> None:
    """Send what is left."""
    if Tracing.provider is not None:
        Tracing.provider.shutdown()
        use(None)


@contextmanager
def span(name: str, attributes: Attributes | None = None) -> Iterator[Any]:
    """A span inside the current one; None where nothing is traced."""
    if Tracing.tracer is None:
        yield None
        return
    with Tracing.tracer.start_as_current_span(name, attributes=attributes) as made:
        yield made


@contextmanager
def request_span(method: str, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[Any]:
    """The span of a request, as a child of the one that its `traceparent` names."""
    if Tracing.tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    known = (b"traceparent", b"tracestate")
    carrier = {name.decode(): value.decode("latin-1") for name, value in headers if name in known}
    parent = TraceContextTextMapPropagator().extract(carrier)
    with Tracing.tracer.start_as_current_span(
        method, context=parent, kind=SpanKind.SERVER, attributes={"http.request.method": method}
    ) as made:
        yield made


def name_request(made: Any, method: str, route: str, status: int, items: int, request: str) -> None:
    """Say what became of a request, on its span."""
    if made is None:
        return
    made.update_name(f"{method} {route}")
    made.set_attributes(
        {
            "http.route": route,
            "http.response.status_code": status,
            "mmes.items": items,
            "mmes.request_id": request,
        }
    )
    if status >= 500:
        from opentelemetry.trace import StatusCode

        made.set_status(StatusCode.ERROR)
