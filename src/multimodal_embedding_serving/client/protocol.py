"""The wire contract as a client sees it: arguments to requests, replies to results.

Nothing here does input or output over the network; `client.Client` and `client.AsyncClient` do.
"""

from __future__ import annotations

import base64
import json
import random
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multimodal_embedding_serving import errors
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput, RemoteFailed
from multimodal_embedding_serving.types import Vectors

ImageLike = str | Path | bytes | Image.Image | NDArray[Any]
"""A path, an http(s) or data URL, encoded bytes, a picture, or an array [H, W, 3] or [H, W]."""
VideoLike = str | Path | bytes
Reply = httpx2.Response | httpx2.TransportError

BATCH_BYTES = 24_000_000
"""Encoded bytes of a request: well below the server's default limit of 64 MB."""
BUSY = {429, 502, 503}
LOST = (httpx2.NetworkError, httpx2.RemoteProtocolError)
"""A connection that broke; a timeout is the caller's own limit and is not tried again."""
PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
WEB = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class VideoFrame:
    index: int
    timestamp: float
    """Seconds from the video's start."""


class VideoVectors(NamedTuple):
    vectors: Vectors
    """[frames, dimension]; [1, dimension] where the segment asks for pooling."""
    frames: list[VideoFrame]


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request of the wire contract."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    first: int = 0
    """Where the request's items start in the caller's list."""

    def payload(self) -> dict[str, Any]:
        """What the HTTP library is to send."""
        if self.body is None:
            return {}
        # ASCII escapes: a lone surrogate in a text has no UTF-8, but it has an escape.
        content = json.dumps(self.body).encode()
        return {"content": content, "headers": {"content-type": "application/json"}}


@dataclass(frozen=True, slots=True)
class RequestBuilder:
    """From arguments to requests, and from replies to results; does no input or output itself."""

    model: str | None
    batch: int
    retries: int

    def text_calls(
        self, texts: str | Sequence[str], role: str | None, wanted: Mapping[str, Any]
    ) -> Iterator[ApiRequest]:
        listed = [texts] if isinstance(texts, str) else texts
        role = role or ("query" if isinstance(texts, str) else "document")
        for start in range(0, len(listed), self.batch):
            part = list(listed[start : start + self.batch])
            body = {"input": part, "input_type": role, **wanted}
            yield ApiRequest("POST", "/v1/embeddings", self.body(body), start)

    def image_calls(self, images: ImageLike | Iterable[ImageLike]) -> Iterator[ApiRequest]:
        single = isinstance(images, str | bytes | Path | Image.Image | np.ndarray)
        listed: Iterable[ImageLike] = [images] if single else images  # type: ignore[list-item,assignment]
        part: list[tuple[str, str]] = []
        size = first = 0
        for image in listed:
            item = image_item(image)
            if part and (len(part) == self.batch or size + len(item[1]) > BATCH_BYTES):
                yield self.image_call(part, first)
                part, size, first = [], 0, first + len(part)
            part.append(item)
            size += len(item[1])
        if part:
            yield self.image_call(part, first)

    def image_call(self, items: Sequence[tuple[str, str]], first: int) -> ApiRequest:
        """One kind in a list of its own; both kinds side by side as frames."""
        kinds = {kind for kind, _ in items}
        if len(kinds) == 1:
            kind = kinds.pop()
            source: dict[str, Any] = {"type": kind, kind: [value for _, value in items]}
        else:
            frames = [{"type": kind, kind: value} for kind, value in items]
            source = {"type": "video_frames", "video_frames": frames}
        return ApiRequest("POST", "/embeddings", self.body({"input": source}), first)

    def video_call(self, video: VideoLike, segment: Mapping[str, Any] | None) -> ApiRequest:
        if isinstance(video, str) and video.startswith(WEB):
            source: dict[str, Any] = {"type": "video_url", "video_url": video}
        else:
            source = {"type": "video_base64", "video_base64": encoded(video)}
        if segment is not None:
            source["segment_config"] = dict(segment)
        return ApiRequest("POST", "/embeddings", self.body({"input": source}))

    def body(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        named = {} if self.model is None else {"model": self.model}
        given = {key: value for key, value in fields.items() if value is not None}
        return {**named, **given, "encoding_format": "base64"}

    def pause(self, reply: Reply, attempt: int) -> float | None:
        """Seconds until the request is sent again; None: the reply stands."""
        if attempt >= self.retries:
            return None
        doubling: float = 0.25 * 2 ** min(attempt, 5) * random.uniform(1, 1.5)  # noqa: S311
        if isinstance(reply, httpx2.TransportError):
            return doubling if isinstance(reply, LOST) else None
        if reply.status_code not in BUSY or reply.headers.get("x-should-retry") == "false":
            return None
        named = named_pause(reply.headers.get("retry-after", ""))
        return doubling if named is None else min(60.0, named)


def named_pause(value: str) -> float | None:
    """The seconds that Retry-After names, by number or by date (RFC 9110, 10.2.3)."""
    if value.replace(".", "", 1).isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def answer(call: ApiRequest, reply: Reply) -> Any:
    """The reply's JSON. Raises the error that the server reports, or RemoteFailed."""
    if isinstance(reply, httpx2.TransportError):
        raise RemoteFailed(f"the server did not answer: {type(reply).__name__}") from reply
    try:
        body = reply.json()
    except ValueError:
        body = None
    if reply.is_success and body is not None:
        return body
    raise refusal(reply.status_code, body if isinstance(body, dict) else {}, call.first)


def refusal(status: int, body: Mapping[str, Any], first: int) -> EmbeddingError:
    """A refused request as our own error: by its code if that is ours, else by its status.

    The item at fault is named by its place in the caller's list, which starts `first` items before.
    """
    told = body["error"] if isinstance(body.get("error"), dict) else body
    message = str(told.get("message") or told.get("detail") or f"the server answered {status}")
    known = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    ours = [kind for kind in known if issubclass(kind, EmbeddingError) and kind.status != 501]
    by_code = [kind for kind in ours if kind.code == told.get("code")]
    by_status = [kind for kind in ours if kind.status == status != 500]
    error = (by_code or by_status or [RemoteFailed])[0](message)
    index, error.param = told.get("index"), told.get("param")
    if place := re.match(r"item (\d+): ", message):
        index, error.message = int(place[1]), message[place.end() :]
    error.index = None if index is None else first + index
    return error


def rows(body: Mapping[str, Any]) -> Vectors:
    """The vectors of an answer, native or OpenAI's -> float32 [n, dimension]."""
    if "data" in body:
        found = [item["embedding"] for item in sorted(body["data"], key=lambda each: each["index"])]
    else:
        found = body["embedding"]
        if isinstance(found, str) or not isinstance(found[0], str | list):
            found = [found]
    vectors = [
        np.frombuffer(base64.b64decode(each), "<f4") if isinstance(each, str) else each
        for each in found
    ]
    return np.asarray(vectors, np.float32)


def joined(parts: Sequence[Vectors]) -> Vectors:
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def video_vectors(body: Mapping[str, Any]) -> VideoVectors:
    frames = [VideoFrame(each["index"], each["timestamp"]) for each in body.get("frames") or ()]
    return VideoVectors(rows(body), frames)


def image_item(image: ImageLike) -> tuple[str, str]:
    """(kind, value) of the wire: a URL stays a URL, all else is base64."""
    if isinstance(image, str) and image.startswith((*WEB, "data:")):
        kind = "image_base64" if image.startswith("data:") else "image_url"
        return kind, image
    if isinstance(image, np.ndarray):
        image = picture_of(image)
    return "image_base64", encoded(lossless(image) if isinstance(image, Image.Image) else image)


def picture_of(array: NDArray[Any]) -> Image.Image:
    try:
        return Image.fromarray(array)
    except TypeError:
        raise InvalidInput(f"an array {array.shape} of {array.dtype} is no picture") from None


def lossless(picture: Image.Image) -> bytes:
    """PNG, or TIFF for what PNG can't hold (CMYK, 32-bit); the orientation goes with it."""
    file = BytesIO()
    if picture.mode in PNG_MODES:
        picture.save(file, "PNG", exif=picture.getexif(), compress_level=1)
    else:
        picture.save(file, "TIFF", exif=picture.getexif())
    return file.getvalue()


def encoded(source: str | Path | bytes) -> str:
    """Base64 of bytes, or of the file at a path. Raises OSError like `open`."""
    data = source if isinstance(source, bytes) else Path(source).expanduser().read_bytes()
    return base64.b64encode(data).decode()
