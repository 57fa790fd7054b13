"""Every error that a caller can see: one class each, with its HTTP status and its code.

A message is written for the caller: it never holds a memory address, a stack, or a server path
outside the media roots. `index` names the item of a list that is at fault, `param` the request
field.
"""

from __future__ import annotations

from typing import ClassVar


class EmbeddingError(Exception):
    """The root of all errors that this package raises on purpose."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, index: int | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.index = index
        self.param = param

    def at(self, index: int) -> EmbeddingError:
        """The same error, naming the item of a list that is at fault (an inner index wins)."""
        if self.index is None:
            self.index = index
        return self

    def __str__(self) -> str:
        return self.message if self.index is None else f"item {self.index}: {self.message}"


class BadRequest(EmbeddingError):
    """A request that asks for what it may not; its kinds follow."""

    status, code = 400, "bad_request"


class ModelMismatch(BadRequest):
    """The request names another model than the loaded one."""

    code = "model_mismatch"


class ModalityNotSupported(BadRequest):
    """The loaded model does not embed input of this kind."""

    code = "modality_not_supported"


class DimensionsNotAllowed(BadRequest):
    """The loaded model does not give vectors of this length."""

    code = "dimensions_not_allowed"


class Unauthorized(EmbeddingError):
    """The API key is missing or wrong."""

    status, code = 401, "invalid_api_key"


class Forbidden(EmbeddingError):
    """A path outside the media roots, or a URL whose address may not be fetched."""

    status, code = 403, "forbidden"


class NotFound(EmbeddingError):
    """A file or a route that does not exist."""

    status, code = 404, "not_found"


class TooLarge(EmbeddingError):
    """A body, an item, a number of items or of pixels above its limit."""

    status, code = 413, "too_large"


class UnsupportedMedia(EmbeddingError):
    """Bytes whose signature is no image or video format that may be opened."""

    status, code = 415, "unrecognised_media"


class InvalidInput(EmbeddingError):
    """Malformed input, or media of a known format that can't be decoded."""

    status, code = 422, "invalid_input"


class RemoteFailed(EmbeddingError):
    """A remote URL that could not be reached or answered badly; its status is in the message."""

    status, code = 424, "remote_failed"


class QueueFull(EmbeddingError):
    """Too many items are waiting; try again after the pause named."""

    status, code = 429, "queue_full"

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class GraphFailed(EmbeddingError):
    """The graph failed on an item, twice: in its batch and alone."""

    status, code = 500, "graph_failed"


class NotReady(EmbeddingError):
    """No model is open yet, the engine died, or the server is draining."""

    status, code = 503, "not_ready"


class DeadlineExceeded(EmbeddingError):
    """The request was not answered within its deadline."""

    status, code = 504, "deadline_exceeded"


class SettingsError(EmbeddingError):
    """A setting whose value is not allowed; the message lists the allowed ones."""

    code = "settings"


class UnknownModel(EmbeddingError):
    """A name that means no model."""

    status, code = 404, "model_not_found"


class FamilyNotBuilt(EmbeddingError):
    """A row of the catalog whose family this version can't build yet."""

    status, code = 501, "family_not_built"


class MissingExtra(EmbeddingError):
    """A feature whose optional dependencies are not installed; the message names the extra."""

    status, code = 501, "missing_extra"

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs the extra '{extra}': "
            f"pip install 'multimodal-embedding-serving[{extra}]'"
        )
        self.extra = extra


class CheckpointError(EmbeddingError):
    """A weight file that is truncated, corrupt, hostile or lacks a tensor; names both."""

    code = "checkpoint"


class BundleError(EmbeddingError):
    """A bundle on disk that is incomplete, altered, or of another format version."""

    code = "bundle"


class SelfTestFailed(EmbeddingError):
    """A model whose self-test on opening failed: NaN, norms, or inputs that it can't tell apart."""

    status, code = 503, "self_test_failed"
