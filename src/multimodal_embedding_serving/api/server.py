"""Runs the server: the model loads while the web framework is still being imported."""

from __future__ import annotations

import logging
import os

from multimodal_embedding_serving.api.service import Listening, Service, open_engine
from multimodal_embedding_serving.settings import Settings


def serve(settings: Settings, listening: Listening | None = None) -> int:
    """Serve until a signal. Returns the exit status: 1 if the model could not be loaded."""
    service = Service(settings)
    service.open_in_background(open_engine)
    from multimodal_embedding_serving.api.uvicorn_server import make_server

    server = make_server(service, listening)
    server.run()
    status = 0 if server.started and service.failure is None else 1
    if server.started and not service.opened.is_set():
        # A conversion can't be interrupted, and a thread in native code that outlives the
        # interpreter aborts the process. An incomplete bundle is never used, so nothing breaks.
        logging.shutdown()
        os._exit(status)
    return status
