"""The web server: uvicorn on uvloop and httptools, with a graceful shutdown."""

from __future__ import annotations

import logging
import socket
import time
from types import FrameType

import uvicorn

from multimodal_embedding_serving.api.app import create_app
from multimodal_embedding_serving.api.connection import limit_connections
from multimodal_embedding_serving.api.lingering import Listeners
from multimodal_embedding_serving.api.service import EngineFactory, Listening, Service, open_engine
from multimodal_embedding_serving.engine.loader import ModelInfo
from multimodal_embedding_serving.monitoring.memory import private_memory

log = logging.getLogger(__name__)

QUIET_TICKS = 3
"""Tenths of a second without a new connection, after which none is in the making."""
MAX_FAREWELL = 1.0
"""Seconds beyond `drain` for responses to clients that had connected."""


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
        self._listeners: Listeners | None = None
        """Set once new connections are ignored."""
        self._quiet_ticks = 0
        self._announced = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._stop_at is not None:
            self.should_exit = True  # a second signal does not wait
        self._stop_at = time.monotonic() + self.service.settings.drain
        self.service.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second; True ends its main loop."""
        if self._stop_at is not None:
            self._approach_exit(self._stop_at)
        if self.service.failure is not None:
            self.should_exit = True
        engine = self.service.engine
        if engine is not None and not self._announced:
            self._announced = True
            memory = f"{private_memory() / 1e6:,.0f} MB of memory"
            log.info("ready: open %s (%s, %s)", self._link(), describe_model(engine.info), memory)
        return await super().on_tick(counter)

    def _approach_exit(self, stop_at: float) -> None:
        """Ignore new connections once there is no work, then respond to whoever has connected."""
        idle, now = self.service.active == 0, time.monotonic()
        if self._listeners is None:
            if idle or now >= stop_at:
                self._listeners = Listeners(
                    each for server in self.servers for each in server.sockets
                )
                self._listeners.ignore_new()
            return
        waiting = self._listeners.has_waiting() or not idle
        self._quiet_ticks = 0 if waiting else self._quiet_ticks + 1
        if self._quiet_ticks >= QUIET_TICKS or now >= stop_at + MAX_FAREWELL:
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._listeners is not None:
            self._listeners.close()
        await super().shutdown(sockets)

    def _link(self) -> str:
        """The address for a browser on this machine, with the port that was bound."""
        config = self.config
        host, port = str(config.host), config.port
        if self.servers and self.servers[0].sockets:
            port = self.servers[0].sockets[0].getsockname()[1]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
        scheme = "https" if config.is_ssl else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{config.root_path}"


def describe_model(info: ModelInfo) -> str:
    """Model, device and precision in a few words."""
    computed = "" if info.precision == info.inference else f", computed in {info.inference}"
    return f"{info.id} on {info.device}, {info.precision}{computed}"


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
        http=limit_connections(settings, lambda: service.draining),
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
