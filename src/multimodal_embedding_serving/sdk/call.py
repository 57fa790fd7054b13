"""One call of a verb: its items, its options, and what failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from multimodal_embedding_serving.errors import (
    EmbeddingError,
    Forbidden,
    GraphFailed,
    InvalidInput,
    NotFound,
    RemoteFailed,
    TooLarge,
    UnsupportedMedia,
)
from multimodal_embedding_serving.sdk.arguments import (
    MEDIA,
    OnError,
    Role,
    as_list,
    choice,
    kind_of,
    positive,
    read_media,
    read_segment,
    read_text,
    shorten,
)
from multimodal_embedding_serving.sdk.results import ItemFailure, PartialResult, VideoVectors
from multimodal_embedding_serving.types import Vector, Vectors

Argument = Literal["texts", "images", "video"]
ITEM_ERRORS = (
    Forbidden, GraphFailed, InvalidInput, NotFound, RemoteFailed, TooLarge, UnsupportedMedia,
)  # fmt: skip
"""Errors that one item can cause; the others are the service's, and every item would meet them."""


MAX_NAME = 500
"""Characters of a URL or path in a message."""
SINGLE_IMAGE = (str, bytes, bytearray, memoryview, Path, Image.Image, np.ndarray)


@dataclass(frozen=True, slots=True)
class CallItem:
    """A valid item of a call."""

    index: int
    value: Any
    """A text; or an image or video: a Path, a URL, bytes, a PIL image or an array."""
    name: str
    """The path or URL; empty for anything else."""


@dataclass(slots=True, kw_only=True)
class EmbedCall:
    """One call of a verb. Made by `read_call`."""

    argument: Argument
    values: Iterable[Any]
    single: bool
    """The argument is one item, not a list."""
    role: Role | None = None
    instruction: str | None = None
    dimensions: int | None = None
    segment: Mapping[str, Any] | None = None
    skip: bool = False
    failures: list[ItemFailure] = field(default_factory=list)

    def items(self) -> Iterator[CallItem]:
        """The valid items. Of others the error is raised, or noted if the call skips errors."""
        for index, value in enumerate(self.values):
            name = name_of(value) if self.argument != "texts" else ""
            try:
                if self.argument == "texts":
                    valid: Any = read_text(value)
                else:
                    valid = read_media(self.argument, value)
            except EmbeddingError as error:
                self.fail(CallItem(index, value, name), error)
            else:
                yield CallItem(index, valid, name)

    def fail(self, item: CallItem, error: EmbeddingError) -> None:
        """Name the item in the error; note it if the call skips errors, or else raise it."""
        error.param, error.index = self.argument, None if self.single else item.index
        if item.name and item.name not in error.message:
            error.message = f"{item.name}: {error.message}"
        if self.single and not error.message.startswith(self.argument):
            error.message = f"{self.argument}: {error.message}"
        if not self.skip or not is_item_error(error):
            raise error
        self.failures.append(ItemFailure(item.index, item.name, error))

    def matrix(self, rows: Mapping[int, Vector], dimension: int) -> Vectors:
        """Vectors by position -> [rows, dimension], in the argument's order."""
        if not rows:
            return np.empty((0, dimension), np.float32)
        return np.stack([rows[index] for index in sorted(rows)])

    def result(self, found: Mapping[int, Any], dimension: int) -> Any:
        """What `embed` returns: `found` has a vector, or the VideoVectors of a video, by position.

        `dimension` is that of an empty result.
        """
        indexes = sorted(found)
        if self.argument != "video":
            vectors: Any = self.matrix(found, dimension)
        else:
            vectors = [found[index].vectors for index in indexes]
            if self.single:
                vectors = vectors[0] if vectors else np.empty((0, dimension), np.float32)
                indexes = [0] * len(vectors)
        if not self.skip:
            return vectors
        failures = sorted(self.failures, key=lambda each: each.index)
        return PartialResult(vectors, indexes, failures)

    def videos(self, found: Mapping[int, VideoVectors]) -> Any:
        """What `embed_video` returns: the vectors and frames of the video, or a list of them."""
        return found[0] if self.single else [found[index] for index in sorted(found)]


def is_item_error(error: EmbeddingError) -> bool:
    """Whether an error is the item's own. A RemoteFailed with a cause is a lost server."""
    return isinstance(error, ITEM_ERRORS) and error.__cause__ is None


def name_of(value: Any) -> str:
    """The path or URL of an image or video; a data URL has none, because it is the data itself."""
    if hasattr(value, "__fspath__"):
        return str(value)
    if not isinstance(value, str) or value[:5].lower() == "data:":
        return ""
    return value[:MAX_NAME]


def read_call(
    *,
    texts: Any = None,
    images: Any = None,
    video: Any = None,
    segment: Any = None,
    role: Any = None,
    instruction: Any = None,
    dimensions: Any = None,
    on_error: Any = "raise",
) -> EmbedCall:
    """Check the arguments of a verb. Raises InvalidInput or NotFound, which name the argument."""
    given = {"texts": texts, "images": images, "video": video}
    present = [name for name, value in given.items() if value is not None]
    if len(present) != 1:
        both = f"not {' and '.join(present)} together" if present else "and none was given"
        raise InvalidInput(f"exactly one of texts, images and video is required, {both}")
    argument: Any = present[0]
    choice("on_error", on_error, OnError)
    _check_options(argument, role, instruction, segment, dimensions)
    values = _values(argument, given[argument])
    call = EmbedCall(
        argument=argument,
        values=[given[argument]] if values is None else values,
        single=values is None,
        role=role,
        instruction=instruction,
        dimensions=None if dimensions is None else int(dimensions),
        segment=read_segment(segment),
        skip=on_error == "skip",
    )
    if argument == "texts" and call.role is None:
        call.role = "query" if call.single else "document"
    if isinstance(call.values, Sequence) and not call.skip:
        for _ in call.items():  # before anything is embedded or sent
            pass
    return call


def _values(argument: str, value: Any) -> Iterable[Any] | None:
    """The argument's items; None for a single one. Raises InvalidInput for neither."""
    if argument == "texts":
        values = as_list(argument, value, str)
        if values is None and not isinstance(value, str):
            raise InvalidInput(
                f"texts must be a string (a query) or a list of strings (documents), "
                f"not {kind_of(value)}",
                param=argument,
            )
        return None if values is None else list(values)
    if isinstance(value, SINGLE_IMAGE) or hasattr(value, "__fspath__"):
        return None
    if hasattr(value, "read") or hasattr(value, "numpy"):
        return None  # an open file or a tensor: one wrong item, not an iterable of many
    values = as_list(argument, value, ())
    if values is None:
        raise InvalidInput(
            f"{argument} must be {MEDIA[argument]}, or a list of these, not {kind_of(value)}",
            param=argument,
        )
    return list(values) if isinstance(values, list | tuple) else values


def _check_options(
    argument: str, role: Any, instruction: Any, segment: Any, dimensions: Any
) -> None:
    """Raise InvalidInput for an option that is wrong, or has no effect on the argument."""
    if role is not None:
        choice("role", role, Role)
    if instruction is not None and not isinstance(instruction, str):
        raise InvalidInput(
            f"instruction must be a string, not {kind_of(instruction)}", param="instruction"
        )
    if dimensions is not None:
        positive("dimensions", dimensions)
    for name, value, owner in (
        ("role", role, "texts"),
        ("instruction", instruction, "texts"),
        ("segment", segment, "video"),
    ):
        if value is not None and argument != owner:
            raise InvalidInput(
                f"{name}={shorten(value)} applies to {owner}= only; leave it out for {argument}=",
                param=name,
            )
