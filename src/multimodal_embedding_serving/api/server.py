"""Runs the server: the model loads while the web framework is still being imported."""

from __future__ import annotations

import logging
import resource
import socket

from multimodal_embedding_serving.api.service import Listening, Service, open_engine
from multimodal_embedding_serving.engine.preflight import check_startup
from multimodal_embedding_serving.settings import Settings

log = logging.getLogger(__name__)

OTHER_FILES = 512
"""Open files besides connections: models, fetches, videos and their decoders, log and libraries."""


def serve(settings: Settings, listening: Listening | None = None) -> str | None:
    """Serve until a signal. Returns None, or the reason why the server ended by itself.

    What can be known to fail without the hub or a conversion fails before the port is opened.
    """
    _raise_file_limit(settings.max_connections)
    service = Service(settings)
    service.open_in_background(open_engine, check_startup)
    from multimodal_embedding_serving.api.uvicorn_server import make_server

    server = make_server(service, listening)
    service.checked.wait()
    if service.failure is not None:
        return service.failure
    try:
        server.run()
    except SystemExit:  # uvicorn raises it if it can't listen
        reason = _listening_error(settings)
        return (
            f"cannot listen on {settings.host}:{settings.port}: {reason}; choose another address "
            "with --host and --port"
        )
    except OSError as error:  # a certificate that cannot be read
        return f"cannot start: {error.strerror or error}"
    return service.failure


def _raise_file_limit(connections: int) -> None:
    """Let the process open as many files as it has connections: 1,024 is a usual soft limit.

    Beyond the limit, connections are not even accepted, and probes get no response.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning(
            "the process may open %d files only (ulimit -n), too few for %d connections "
            "(EMBEDDING_MAX_CONNECTIONS)", hard, connections,
        )  # fmt: skip
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listening_error(settings: Settings) -> str:
    """Why the address cannot be listened on, in the system's words."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except OSError as error:
        return error.strerror or str(error)
    return "see the log above"
