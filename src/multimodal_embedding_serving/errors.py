"""Every error that a caller can see: one class each, with its HTTP status and its code.

Messages are written for the caller: they never contain a memory address, a stack trace, or a server
path outside the media roots. `index` is the position of the item that caused the error, from 0, and
`param` is the request field.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

PANIC = "PanicException"
"""What a panic of a library written in Rust is called in Python; no module exports it."""

ITEM_LISTS = ("input", "inputs", "texts", "images", "video")
"""The request fields and SDK arguments that hold items; `index` counts the items of one of them."""


class EmbeddingError(Exception):
    """Base class of all errors that this package raises on purpose."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, index: int | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.index = index
        self.param = param

    def at(self, index: int) -> EmbeddingError:
        """The same error, with the position of the item; an index that is already set stays."""
        if self.index is None:
            self.index = index
        return self

    def __str__(self) -> str:
        """The message, preceded by the item that caused the error: `input[1]: …`."""
        if self.index is None or "." in (self.param or ""):  # a path: the message starts with it
            return self.message
        field = self.param if self.param in ITEM_LISTS else "input"
        return f"{field}[{self.index}]: {self.message}"


class BadRequest(EmbeddingError):
    """The request is well-formed but can't be served; the next three are special cases."""

    status, code = 400, "bad_request"


class ModelMismatch(BadRequest):
    """The request names a model other than the loaded one."""

    code = "model_mismatch"


class ModalityNotSupported(BadRequest):
    """The loaded model does not embed this kind of input."""

    code = "modality_not_supported"


class DimensionsNotAllowed(BadRequest):
    """The loaded model does not produce vectors of this length."""

    code = "dimensions_not_allowed"


class Unauthorized(EmbeddingError):
    """The API key is missing or wrong."""

    status, code = 401, "invalid_api_key"


class Forbidden(EmbeddingError):
    """The path is outside the media roots, or fetching from the URL's address is not allowed."""

    status, code = 403, "forbidden"


class NotFound(EmbeddingError):
    """The file or route does not exist."""

    status, code = 404, "not_found"


class TooLarge(EmbeddingError):
    """The body, an item, or the number of items, frames or pixels exceeds its limit."""

    status, code = 413, "too_large"


class UnsupportedMedia(EmbeddingError):
    """The data is in no supported image or video format, or of a kind that is not supported."""

    status, code = 415, "unrecognised_media"


class InvalidInput(EmbeddingError):
    """The input is malformed, or media in a supported format can't be decoded."""

    status, code = 422, "invalid_input"


class RemoteFailed(EmbeddingError):
    """A remote server could not be reached or returned an error; the message has its status."""

    status, code = 424, "remote_failed"


class QueueFull(EmbeddingError):
    """Too much is in progress, and the client holds its share of it; retry after `retry_after`
    seconds (the `Retry-After` header)."""

    status, code = 429, "queue_full"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class GraphFailed(EmbeddingError):
    """The graph failed on an item twice: in its batch and on its own."""

    status, code = 500, "graph_failed"


class NotReady(EmbeddingError):
    """The model is not loaded yet or has failed, or the server is shutting down."""

    status, code = 503, "not_ready"


class DeadlineExceeded(EmbeddingError):
    """The request was not completed within its deadline."""

    status, code = 504, "deadline_exceeded"


class SettingsError(EmbeddingError):
    """The value of a setting is not allowed; the message lists the allowed values."""

    code = "settings"


class UnknownModel(EmbeddingError):
    """The name does not match any model."""

    status, code = 404, "model_not_found"


class FamilyNotBuilt(EmbeddingError):
    """The catalog lists the model, but this version can't build its family yet."""

    status, code = 501, "family_not_built"


class MissingExtra(EmbeddingError):
    """The feature's optional dependencies are not installed; the message names the extra."""

    status, code = 501, "missing_extra"

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the extra '{extra}': "
            f"pip install 'multimodal-embedding-serving[{extra}]'"
        )
        self.extra = extra


class CheckpointError(EmbeddingError):
    """A weight file is truncated, corrupt or unsafe, or lacks a tensor; the message names both."""

    code = "checkpoint"


class BundleError(EmbeddingError):
    """The bundle on disk is incomplete, modified, or in an unsupported format version."""

    code = "bundle"


class SelfTestFailed(EmbeddingError):
    """The model failed its self-test: NaN, wrong norms, or the same vector for different inputs."""

    status, code = 503, "self_test_failed"


@contextmanager
def native_errors_as(error: type[EmbeddingError], what: str) -> Iterator[None]:
    """Around one call of a library written in Rust: what it raises becomes `error`, and why.

    Such a library raises plain Exception, and its panics are not an Exception at all: they would
    pass every handler and end the thread.
    """
    try:
        yield
    except BaseException as reason:
        if type(reason).__name__ == PANIC:
            raise error(f"{what}: the library failed on it") from None
        if type(reason) is Exception:
            raise error(f"{what}: {str(reason)[:200]}") from None
        raise
