"""How the arguments of the verbs are read: what is not understood is rejected by name.

A call of the wrong form (a missing keyword, an unknown one) raises TypeError, and a wrong value
InvalidInput or, for a file that does not exist, NotFound. Each message says what to pass instead.
"""

from __future__ import annotations

import functools
import inspect
import os
import stat
from collections.abc import Callable, Collection, Iterable, Mapping
from difflib import get_close_matches
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multimodal_embedding_serving.errors import InvalidInput, NotFound

Role = Literal["query", "document"]
OnError = Literal["raise", "skip"]
ImageLike = str | Path | bytes | Image.Image | NDArray[Any]
"""A path, an http(s) or data URL, file contents, a PIL image, or an array [H, W, 3] or [H, W]."""
VideoLike = str | Path | bytes
"""A path, an http(s) or data URL, or file contents."""

SEGMENT_KEYS = (
    "startOffsetSec",
    "clip_duration",
    "num_frames",
    "extraction_fps",
    "fps",
    "frame_indexes",
    "pooling",
    "pixel_aspect",
)
"""The keys of segment_config."""
MEDIA = {
    "images": "a path, an http, https or data URL, encoded bytes, a PIL image or an array",
    "video": "a path, an http, https or data URL, or encoded bytes",
}
F = TypeVar("F", bound=Callable[..., Any])


class SegmentLike(Protocol):
    """A parsed segment_config."""

    def config(self) -> dict[str, Any]: ...


def explain_call(function: F) -> F:
    """Make the TypeError of a wrong call of a method say which arguments there are."""
    parameters = inspect.signature(function).parameters
    names = [name for name in parameters if name != "self"]
    keywords = {name for name in names if parameters[name].kind is not parameters[name].VAR_KEYWORD}
    positional = sum(each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters.values())

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) > positional:
            raise TypeError(
                f"{function.__name__}() takes its input by name: {function.__name__}(texts=…), "
                f"{function.__name__}(images=…) or {function.__name__}(video=…)"
            )
        reject_unknown(f"{function.__name__}()", kwargs, keywords)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def reject_unknown(what: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise TypeError for an argument that does not exist, with the closest one that does."""
    for name in given:
        if name not in known:
            raise TypeError(f"{what} has no argument {name!r}; {suggest(name, known)}")


def suggest(name: str, known: Collection[str]) -> str:
    """The known name that is closest, or else all of them."""
    close = get_close_matches(name, known, 1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"


def kind_of(value: object) -> str:
    """A value's type as a message names it."""
    if value is None:
        return "None"
    if isinstance(value, float) and value != value:
        return "NaN"
    return type(value).__name__


def choice(name: str, value: object, allowed: Any) -> None:
    """Raise InvalidInput if the value is not one of the Literal `allowed`."""
    values = get_args(allowed)
    if value not in values:
        listed = " or ".join(repr(each) for each in values)
        raise InvalidInput(f"{name} must be {listed}, not {shorten(value)}", param=name)


def shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def positive(name: str, value: Any, *, whole: bool = True, zero: bool = False) -> None:
    """Raise InvalidInput if the value is not a number above 0 (`zero`: or 0)."""
    kind = Integral if whole else Real
    valid = isinstance(value, kind) and not isinstance(value, bool)
    if not valid or not (value > 0 or (zero and value == 0)):
        expected = "a whole number" if whole else "a number"
        bound = "of 0 or more" if zero else "greater than 0"
        raise InvalidInput(f"{name} must be {expected} {bound}, not {shorten(value)}", param=name)


def read_segment(segment: Any) -> dict[str, Any] | None:
    """Check a segment's keys. Raises InvalidInput, which names the key; the values come later."""
    if segment is None:
        return None
    if hasattr(segment, "config"):
        return dict(segment.config())
    if not isinstance(segment, Mapping):
        raise InvalidInput(
            f"segment must be a dict such as {{'num_frames': 8}}, not {kind_of(segment)}",
            param="segment",
        )
    for key in segment:
        if key not in SEGMENT_KEYS:
            hint = suggest(str(key), SEGMENT_KEYS)
            raise InvalidInput(f"segment has no key {key!r}; {hint}", param="segment")
    return dict(segment)


def is_web(value: str) -> bool:
    """Whether a string is an http, https or data URL, not a path."""
    return value[:8].lower().startswith(("http://", "https://", "data:"))


def as_list(argument: str, value: Any, single: type | tuple[type, ...]) -> Iterable[Any] | None:
    """The items of an argument; None if it is a single item. Raises InvalidInput.

    A dict or a set is no list: the first would be read as its keys, and the second has no order.
    """
    if isinstance(value, single):
        return None
    if isinstance(value, Mapping | set | frozenset):
        raise InvalidInput(
            f"{argument} must be one item or a list, not a {kind_of(value)}; "
            f"pass list(…) of what to embed",
            param=argument,
        )
    if isinstance(value, Iterable) and not isinstance(value, bytes | bytearray | memoryview | str):
        return value
    return None


def read_text(value: Any) -> str:
    """One text. Raises InvalidInput."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes | bytearray):
        raise InvalidInput("a text must be a string, not bytes; use .decode()")
    if isinstance(value, Path):
        raise InvalidInput("a text must be a string, not a path; use .read_text(), or images=")
    if isinstance(value, list | tuple):
        raise InvalidInput(
            f"a text must be a string, not a {kind_of(value)}; pass one flat list (token ids "
            "can't be embedded)"
        )
    if isinstance(value, Image.Image | np.ndarray):
        raise InvalidInput(f"a text must be a string, not {kind_of(value)}; pass it as images=")
    hint = "drop it or replace it" if kind_of(value) in ("None", "NaN") else "use str(…)"
    raise InvalidInput(f"a text must be a string, not {kind_of(value)}; {hint}")


def read_media(argument: str, value: Any) -> Any:
    """One image or video: a Path for a file, or else the value. Raises InvalidInput, NotFound."""
    if isinstance(value, str):
        return _read_string(argument, value)
    if isinstance(value, os.PathLike):
        return check_file(argument, Path(value))
    if isinstance(value, bytes | bytearray | memoryview):
        if not value:
            raise InvalidInput("there are no bytes; pass the contents of a file, or its path")
        return bytes(value)
    if argument == "images" and isinstance(value, Image.Image | np.ndarray):
        return value
    if isinstance(value, Image.Image | np.ndarray):
        raise InvalidInput(
            f"must be {MEDIA['video']}, not {kind_of(value)}; pass frames as images=[…]"
        )
    hint = ""
    if hasattr(value, "numpy"):
        hint = "; use .numpy()"
    elif hasattr(value, "read"):
        hint = "; use .read()"
    elif kind_of(value) in ("None", "NaN"):
        hint = "; drop it"
    raise InvalidInput(f"must be {MEDIA[argument]}, not {kind_of(value)}{hint}")


def _read_string(argument: str, value: str) -> Any:
    if not value.strip():
        raise InvalidInput("the string is empty; pass a path or a URL")
    if is_web(value):
        return value
    scheme = value.partition("://")[0]
    if "://" in value and scheme.isalnum():
        raise InvalidInput(
            f"{scheme}:// can't be read; pass a path, an http or https URL, or the bytes"
        )
    return check_file(argument, Path(value))


def check_file(argument: str, path: Path) -> Path:
    """The path with ~ expanded. Raises NotFound, InvalidInput; each names the path."""
    try:
        path = path.expanduser()
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{path}: no such file; {_elsewhere(argument, path)}") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a file name"
        raise InvalidInput(f"{shorten(str(path))}: can't be read: {reason}") from None
    if stat.S_ISDIR(mode):
        raise InvalidInput(f"{path}: is a folder; use embed_folder(…), or pass a list of its files")
    return path


def _elsewhere(argument: str, path: Path) -> str:
    """What a name that is no file may have been meant as."""
    if not path.suffix and not path.is_absolute():
        return f"check the path, or pass a text as texts= ({argument}= takes files and URLs)"
    return f"check the path (relative to {Path.cwd()})" if not path.is_absolute() else "check it"


def check_url(url: Any) -> str:
    """A server's base URL without the slash at its end. Raises InvalidInput."""
    example = "such as 'http://127.0.0.1:9777'"
    if not isinstance(url, str) or not url.strip():
        raise InvalidInput(f"url must be a string {example}, not {shorten(url)}", param="url")
    if not url.lower().startswith(("http://", "https://")):
        hint = "start it with http:// or https://" if "://" in url else f"use {'http://' + url!r}"
        raise InvalidInput(f"url {url!r} is not an http or https URL; {hint}", param="url")
    if "?" in url or "#" in url:
        raise InvalidInput(f"url {url!r} has a query or a fragment; use one {example}", param="url")
    base = url.rstrip("/")
    if not base.partition("://")[2] or base.partition("://")[2].startswith((":", "/")):
        raise InvalidInput(f"url {url!r} names no host; use one {example}", param="url")
    for suffix in ("/v1/embeddings", "/v1", "/embeddings"):
        if base.endswith(suffix):
            raise InvalidInput(
                f"url {url!r} ends with {suffix}; use the server's address without it: "
                f"{base.removesuffix(suffix)!r}",
                param="url",
            )
    return base
