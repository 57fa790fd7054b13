"""The web server: uvicorn on uvloop and httptools, with a graceful shutdown."""

from __future__ import annotations

import time
from types import FrameType

import uvicorn

from multimodal_embedding_serving.api.app import create_app
from multimodal_embedding_serving.api.connection import limit_connections
from multimodal_embedding_serving.api.service import EngineFactory, Listening, Service, open_engine


class Server(uvicorn.Server):
    """A server that finishes the requests in progress before it exits.

    After SIGTERM or SIGINT, /ready returns 503 and new work is rejected, but the server listens
    until the requests in progress are done or `drain` seconds have passed; then it exits with 0. It
    also exits, with 1, if the model could not be loaded.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self._stop_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._stop_at is not None:
            self.should_exit = True  # a second signal does not wait
        self._stop_at = time.monotonic() + self.service.settings.drain
        self.service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; True ends its main loop."""
        if self._stop_at is not None:
            idle = self.service.active == 0
            self.should_exit = self.should_exit or idle or time.monotonic() >= self._stop_at
        if self.service.failure is not None:
            self.should_exit = True
        return await super().on_tick(counter)


def make_server(
    service: Service, listening: Listening | None = None, factory: EngineFactory = open_engine
) -> Server:
    """A server that is ready to run; it loads the model unless that has started."""
    listening, settings = listening or Listening(), service.settings
    app = create_app(settings, factory, service)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=limit_connections(settings),
        ws="none",
        lifespan="on",
        access_log=False,
        server_header=False,
        root_path=listening.root_path,
        timeout_keep_alive=settings.keepalive,  # type: ignore[arg-type]  # goes to call_later
        ssl_certfile=listening.certificate,
        ssl_keyfile=listening.private_key,
        timeout_graceful_shutdown=2,
        log_config=None,
    )
    return Server(config, service)
