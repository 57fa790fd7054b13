"""Log lines on standard error: text for people, or JSON, one object per line, for machines.

A line that is logged while handling a request has the request's id. No line contains media, keys,
texts or URLs: libraries that would log them are limited to warnings.
"""

from __future__ import annotations

import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from multimodal_embedding_serving.monitoring.request import current_request

OWN_LOGGERS = ("multimodal_embedding_serving", "uvicorn")
"""Loggers that use the configured level; all others log warnings and errors only."""
MUTED_LOGGERS = ("python_multipart",)
"""Loggers that quote what a client sent in their warnings."""
FIELDS = ("method", "path", "status", "ms", "items")
"""Additional fields of the line about a finished request."""


class TerminalLog(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, which prints above progress bars while they are shown."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """Ignored: the handler follows sys.stderr."""


def current_request_id() -> str:
    """The id of the current request, or an empty string."""
    request = current_request.get()
    return "" if request is None else request.request_id


class TextLines(logging.Formatter):
    """`12:34:56 INFO    message [request id]`"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        request = current_request_id()
        return super().formatMessage(record) + (f" [{request}]" if request else "")


class JsonLines(logging.Formatter):
    """time (UTC), level, logger, message, and request_id and FIELDS if present."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request := current_request_id():
            line["request_id"] = request
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def set_up_logging(form: str = "text", level: str = "info") -> None:
    """Log to standard error. `form` is text or json."""
    handler = TerminalLog()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(level.upper())
    for name in MUTED_LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    threading.excepthook = _log_thread


def _log_thread(failure: threading.ExceptHookArgs) -> None:
    """Log an exception that ended a thread."""
    name = failure.thread.name if failure.thread else "?"
    if failure.exc_value is not None:
        log = logging.getLogger(OWN_LOGGERS[0])
        log.error("thread %s ended with an exception", name, exc_info=failure.exc_value)
