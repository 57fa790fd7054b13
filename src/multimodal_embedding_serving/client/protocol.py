"""The client's side of the API: builds requests from arguments, and results from replies.

Nothing here uses the network; `client.Client` and `client.AsyncClient` do.
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
from multimodal_embedding_serving.errors import EmbeddingError, RemoteFailed
from multimodal_embedding_serving.image_arrays import to_uint8
from multimodal_embedding_serving.types import Vectors

ImageLike = str | Path | bytes | Image.Image | NDArray[Any]
"""A path, an http(s) or data URL, file contents, a PIL image, or an array (see
`image_arrays.to_uint8`)."""
VideoLike = str | Path | bytes
Reply = httpx2.Response | httpx2.TransportError

MAX_BATCH_BYTES = 24_000_000
"""Base64 in one request: well below the server's default limit, EMBEDDING_MAX_BODY_MB=64."""
RETRYABLE_STATUSES = {429, 502, 503}
LOST = (httpx2.NetworkError, httpx2.RemoteProtocolError)
"""Broken connections, which are retried. Timeouts are not: they are the caller's own limit."""
MAX_RETRY_AFTER = 60.0
"""Seconds; a server that asks for more is retried after this time."""
PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
WEB = ("http://", "https://")


@dataclass(frozen=True, slots=True)
class VideoFrame:
    index: int
    timestamp: float
    """Seconds from the video's start."""


class VideoVectors(NamedTuple):
    vectors: Vectors
    """[frames, dimension]; [1, dimension] if the segment config asks for pooling."""
    frames: list[VideoFrame]


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request to the server."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    offset: int = 0
    """Position of the request's first item in the caller's list."""

    def payload(self) -> dict[str, Any]:
        """Arguments for the HTTP library."""
        if self.body is None:
            return {}
        # With ASCII escapes: a lone surrogate can be escaped, but not encoded as UTF-8.
        content = json.dumps(self.body).encode()
        return {"content": content, "headers": {"content-type": "application/json"}}


@dataclass(frozen=True, slots=True)
class RequestBuilder:
    """Builds requests from arguments, and decides on retries."""

    model: str | None
    batch: int
    retries: int

    def text_requests(
        self, texts: str | Sequence[str], role: str | None, options: Mapping[str, Any]
    ) -> Iterator[ApiRequest]:
        items = [texts] if isinstance(texts, str) else texts
        role = role or ("query" if isinstance(texts, str) else "document")
        for start in range(0, len(items), self.batch):
            part = list(items[start : start + self.batch])
            body = {"input": part, "input_type": role, **options}
            yield ApiRequest("POST", "/v1/embeddings", self.body(body), start)

    def image_requests(self, images: ImageLike | Iterable[ImageLike]) -> Iterator[ApiRequest]:
        single = isinstance(images, str | bytes | Path | Image.Image | np.ndarray)
        iterable: Iterable[ImageLike] = [images] if single else images  # type: ignore[list-item,assignment]
        part: list[tuple[str, str]] = []
        size = offset = 0
        for image in iterable:
            item = image_item(image)
            if part and (len(part) == self.batch or size + len(item[1]) > MAX_BATCH_BYTES):
                yield self.image_request(part, offset)
                part, size, offset = [], 0, offset + len(part)
            part.append(item)
            size += len(item[1])
        if part:
            yield self.image_request(part, offset)

    def image_request(self, items: Sequence[tuple[str, str]], offset: int) -> ApiRequest:
        """Images of one kind are sent as a list; URLs and base64 together are sent as frames."""
        kinds = {kind for kind, _ in items}
        if len(kinds) == 1:
            kind = kinds.pop()
            source: dict[str, Any] = {"type": kind, kind: [value for _, value in items]}
        else:
            frames = [{"type": kind, kind: value} for kind, value in items]
            source = {"type": "video_frames", "video_frames": frames}
        return ApiRequest("POST", "/embeddings", self.body({"input": source}), offset)

    def video_request(self, video: VideoLike, segment: Mapping[str, Any] | None) -> ApiRequest:
        if isinstance(video, str) and video.startswith(WEB):
            source: dict[str, Any] = {"type": "video_url", "video_url": video}
        else:
            source = {"type": "video_base64", "video_base64": encode_base64(video)}
        if segment is not None:
            source["segment_config"] = dict(segment)
        return ApiRequest("POST", "/embeddings", self.body({"input": source}))

    def body(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        fields = {"model": self.model, **fields, "encoding_format": "base64"}
        return {key: value for key, value in fields.items() if value is not None}

    def pause(self, reply: Reply, attempt: int) -> float | None:
        """Seconds to wait before the request is retried; None if it is not retried."""
        if attempt >= self.retries:
            return None
        backoff: float = 0.25 * 2 ** min(attempt, 5) * random.uniform(1, 1.5)  # noqa: S311
        if isinstance(reply, httpx2.TransportError):
            return backoff if isinstance(reply, LOST) else None
        if (
            reply.status_code not in RETRYABLE_STATUSES
            or reply.headers.get("x-should-retry") == "false"
        ):
            return None
        seconds = retry_after(reply.headers.get("retry-after", ""))
        return backoff if seconds is None else min(MAX_RETRY_AFTER, seconds)


def retry_after(value: str) -> float | None:
    """The seconds in a Retry-After header, a number or a date (RFC 9110, 10.2.3)."""
    if value.replace(".", "", 1).isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def read_reply(request: ApiRequest, reply: Reply) -> Any:
    """The reply's JSON. Raises the error that the server reports, or RemoteFailed."""
    if isinstance(reply, httpx2.TransportError):
        raise RemoteFailed(f"the server did not respond: {type(reply).__name__}") from reply
    try:
        body = reply.json()
    except ValueError:
        body = None
    if reply.is_success and body is not None:
        return body
    raise to_error(reply.status_code, body if isinstance(body, dict) else {}, request.offset)


def to_error(status: int, body: Mapping[str, Any], offset: int) -> EmbeddingError:
    """An error response as one of our classes: by its code, or else by its status.

    The error's index counts the items of the caller's list, of which `offset` went into earlier
    requests.
    """
    detail = body["error"] if isinstance(body.get("error"), dict) else body
    message = str(detail.get("message") or detail.get("detail") or f"the server returned {status}")
    classes = [each for each in vars(errors).values() if isinstance(each, type)]
    raisable = [each for each in classes if issubclass(each, EmbeddingError) and each.status != 501]
    by_code = [each for each in raisable if each.code == detail.get("code")]
    by_status = [each for each in raisable if each.status == status != 500]
    error = (by_code or by_status or [RemoteFailed])[0](message)
    index, error.param = detail.get("index"), detail.get("param")
    # OpenAI's format has no index field; servers of version 0.1.0 wrote "item 3".
    if item := re.match(r"(?:input\[|item )(\d+)\]?: ", message):
        index, error.message = int(item[1]), message[item.end() :]
    error.index = None if index is None else offset + index
    return error


def read_vectors(body: Mapping[str, Any]) -> Vectors:
    """The vectors of a response, native or OpenAI's -> float32 [n, dimension]."""
    if "data" in body:
        rows = [item["embedding"] for item in sorted(body["data"], key=lambda each: each["index"])]
    else:
        rows = body["embedding"]
        if isinstance(rows, str) or not isinstance(rows[0], str | list):
            rows = [rows]
    vectors = [
        np.frombuffer(base64.b64decode(row), "<f4") if isinstance(row, str) else row for row in rows
    ]
    return np.asarray(vectors, np.float32)


def concatenate(parts: Sequence[Vectors]) -> Vectors:
    return np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def video_vectors(body: Mapping[str, Any]) -> VideoVectors:
    frames = [VideoFrame(each["index"], each["timestamp"]) for each in body.get("frames") or ()]
    return VideoVectors(read_vectors(body), frames)


def image_item(image: ImageLike) -> tuple[str, str]:
    """(input kind, value): URLs stay URLs, everything else becomes base64.

    Raises InvalidInput for arrays that `Engine` rejects too, OSError for files.
    """
    if isinstance(image, str) and image.startswith((*WEB, "data:")):
        kind = "image_base64" if image.startswith("data:") else "image_url"
        return kind, image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(to_uint8(image))
    data = encode_lossless(image) if isinstance(image, Image.Image) else image
    return "image_base64", encode_base64(data)


def encode_lossless(image: Image.Image) -> bytes:
    """PNG, or TIFF for what PNG can't store (CMYK, 32 bits); includes the EXIF orientation."""
    file = BytesIO()
    if image.mode in PNG_MODES:
        image.save(file, "PNG", exif=image.getexif(), compress_level=1)
    else:
        image.save(file, "TIFF", exif=image.getexif())
    return file.getvalue()


def encode_base64(source: str | Path | bytes) -> str:
    """Base64 of bytes, or of the file at a path. Raises OSError as `open` does."""
    data = source if isinstance(source, bytes) else Path(source).expanduser().read_bytes()
    return base64.b64encode(data).decode()
