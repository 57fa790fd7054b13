"""The ASGI application: routes over one service, which loads its model while it listens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from multimodal_embedding_serving.api.browser_guard import BrowserGuard
from multimodal_embedding_serving.api.dialects import (
    on_embedding_error,
    on_http_exception,
    served_dialects,
)
from multimodal_embedding_serving.api.docs import docs_routes
from multimodal_embedding_serving.api.middleware import AuthMiddleware, RequestMiddleware
from multimodal_embedding_serving.api.openapi import TAGS, with_bodies
from multimodal_embedding_serving.api.playground import playground_routes
from multimodal_embedding_serving.api.service import EngineFactory, Service, open_engine
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.monitoring import tracing
from multimodal_embedding_serving.settings import Settings

log = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]

CORS: dict[str, Any] = {
    "allow_methods": ("GET", "HEAD", "POST"),
    "allow_headers": ("authorization", "content-type", "x-request-id"),
    "expose_headers": (
        "x-request-id",
        "x-embedding-fingerprint",
        "x-embedding-shape",
        "retry-after",
    ),
    "allow_credentials": False,
    "max_age": 3600,
}
"""Pages send the API key themselves, so cookies and the browser's credentials are never needed."""


def create_app(
    settings: Settings,
    engine_factory: EngineFactory = open_engine,
    service: Service | None = None,
) -> FastAPI:
    """An app that loads its model on startup, unless that has started, and closes it on shutdown.

    `app.state.service` is the service.
    """
    service = service or Service(settings)
    app = FastAPI(
        title=settings.app_title,
        summary=settings.app_name,
        description=settings.app_description,
        version=version("multimodal-embedding-serving"),
        lifespan=_lifespan(service, engine_factory),
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            EmbeddingError: on_embedding_error,
            HTTPException: on_http_exception,
        },
    )
    app.state.service = service
    for dialect in served_dialects(settings):
        app.include_router(dialect.routes(service), prefix=dialect.prefix)
    app.include_router(playground_routes())
    app.include_router(docs_routes())
    _add_metrics(app, service)
    app.add_middleware(AuthMiddleware, service=service)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, allow_origins=settings.cors_origins, **CORS)
    if settings.is_local and not settings.api_keys:
        app.add_middleware(BrowserGuard, settings=settings)
    app.add_middleware(RequestMiddleware, service=service)
    complete = with_bodies(app.openapi, keyed=bool(settings.api_keys))
    app.openapi = complete  # type: ignore[method-assign]  # as FastAPI documents
    return app


def _lifespan(service: Service, factory: EngineFactory) -> Lifespan:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if not service.settings.api_keys:
            log.warning("EMBEDDING_API_KEYS is not set: the API is open to everyone")
        if service.settings.traces:
            tracing.set_up(app.version)
        if not service.opening_started:
            service.open_in_background(factory)
        yield
        service.draining = True
        if service.engine is not None:
            await service.engine.aclose()
        await asyncio.to_thread(tracing.close)

    return lifespan


def _add_metrics(app: FastAPI, service: Service) -> None:
    @app.get("/metrics", summary="Prometheus metrics", tags=["Health"], response_class=Response)
    def metrics() -> Response:
        body, content_type = service.metrics.render()
        return Response(body, headers={"content-type": content_type})
