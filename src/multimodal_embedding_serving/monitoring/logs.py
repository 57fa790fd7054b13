"""Log lines on standard error: for people, or JSON, one object a line, for machines.

A line that is written while a request is answered carries the request's id. No line holds media,
keys, texts or URLs: libraries that would log them are held at warnings.
"""

from __future__ import annotations

import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from multimodal_embedding_serving.monitoring.request import current_request

OWN = ("multimodal_embedding_serving", "uvicorn")
"""Loggers that the level is for; the others tell warnings and errors only."""
MUTE = ("python_multipart",)
"""They warn of what a client sends, and quote it."""
FIELDS = ("method", "path", "status", "ms", "items")
"""What the line of an answered request has besides."""


class TerminalLog(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is at the time: while bars are shown, that is above them."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """Not kept: whoever replaces sys.stderr is followed anyway."""


def current_request_id() -> str:
    """The id of the request that is being answered, or nothing."""
    account = current_request.get()
    return "" if account is None else account.request_id


class TextLines(logging.Formatter):
    """`12:34:56 INFO    message [request id]`"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's name
        request = current_request_id()
        return super().formatMessage(record) + (f" [{request}]" if request else "")


class JsonLines(logging.Formatter):
    """time (UTC), level, logger, message, request_id, and FIELDS where the line has them."""

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
    """Send the process's log lines to standard error. `form`: text or json."""
    handler = TerminalLog()
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    for name in OWN:
        logging.getLogger(name).setLevel(level.upper())
    for name in MUTE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    threading.excepthook = _log_thread


def _log_thread(ended: threading.ExceptHookArgs) -> None:
    """A thread that ends by an exception is told in the log's own form."""
    name = ended.thread.name if ended.thread else "?"
    if ended.exc_value is not None:
        log = logging.getLogger(OWN[0])
        log.error("the thread %s has ended", name, exc_info=ended.exc_value)
