"""OpenTelemetry traces, if an exporter is configured: a span per request, and one for its work.

Without `set_up` every function here does nothing, and OpenTelemetry is not imported. Spans contain
methods, route templates, statuses and counts: no media, texts or URLs.
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
    """The tracer of the process, once it is set up."""

    tracer: Any = None
    provider: Any = None


def set_up(version: str) -> None:
    """Export spans to OTEL_EXPORTER_OTLP_ENDPOINT.

    OpenTelemetry's own variables set the service name, headers and sampling. Without the extra
    `otel` this logs a warning and does nothing.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("%s", MissingExtra("tracing", "otel"))
        return
    resource = Resource.create({SERVICE_VERSION: version})
    if str(resource.attributes.get(SERVICE_NAME)).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "multimodal-embedding-serving"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    use(provider)


def use(provider: Any) -> None:
    """Create spans with this provider from now on; None: create no more."""
    Tracing.provider = provider
    Tracing.tracer = None if provider is None else provider.get_tracer(__package__)


def close() -> None:
    """Export the remaining spans."""
    if Tracing.provider is not None:
        Tracing.provider.shutdown()
        use(None)


@contextmanager
def span(name: str, attributes: Attributes | None = None) -> Iterator[Any]:
    """Open a span inside the current one; yields None if tracing is off."""
    if Tracing.tracer is None:
        yield None
        return
    with Tracing.tracer.start_as_current_span(name, attributes=attributes) as child:
        yield child


@contextmanager
def request_span(method: str, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[Any]:
    """Open the span of a request, as a child of the span in its `traceparent` header."""
    if Tracing.tracer is None:
        yield None
        return
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    keys = (b"traceparent", b"tracestate")
    carrier = {name.decode(): value.decode("latin-1") for name, value in headers if name in keys}
    parent = TraceContextTextMapPropagator().extract(carrier)
    with Tracing.tracer.start_as_current_span(
        method, context=parent, kind=SpanKind.SERVER, attributes={"http.request.method": method}
    ) as root:
        yield root


def name_request(root: Any, method: str, route: str, status: int, items: int, request: str) -> None:
    """Set the name and the attributes of a finished request's span."""
    if root is None:
        return
    root.update_name(f"{method} {route}")
    root.set_attributes(
        {
            "http.route": route,
            "http.response.status_code": status,
            "mmes.items": items,
            "mmes.request_id": request,
        }
    )
    if status >= 500:
        from opentelemetry.trace import StatusCode

        root.set_status(StatusCode.ERROR)
