"""The client's side of the API: builds requests from arguments, and results from replies.

Nothing here uses the network; `client.Client` and `client.AsyncClient` do.
"""

from __future__ import annotations

import base64
import json
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multimodal_embedding_serving import errors
from multimodal_embedding_serving.errors import (
    DimensionsNotAllowed,
    EmbeddingError,
    InvalidInput,
    NotFound,
    RemoteFailed,
    TooLarge,
)
from multimodal_embedding_serving.image_arrays import to_uint8
from multimodal_embedding_serving.sdk.call import CallItem, EmbedCall, is_item_error
from multimodal_embedding_serving.sdk.results import VideoFrame, VideoVectors
from multimodal_embedding_serving.sdk.similarity import Calibration
from multimodal_embedding_serving.types import Vectors

Reply = httpx2.Response | httpx2.TransportError

MAX_BATCH_BYTES = 24_000_000
"""Base64 in one request: well below the server's default limit, EMBEDDING_MAX_BODY_MB=64."""
RETRYABLE_STATUSES = {429, 502, 503}
LOST = (httpx2.NetworkError, httpx2.RemoteProtocolError)
"""Broken connections, which are retried. Timeouts are not: they are the caller's own limit."""
WEB = ("http://", "https://")
MAX_RETRY_AFTER = 60.0
"""Seconds; a server that asks for more is retried after this time."""
PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}


class EncodedItem(NamedTuple):
    """An item of a call as it is sent."""

    item: CallItem
    kind: str
    """Its input kind."""
    value: str


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """One request to the server."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None
    items: tuple[EncodedItem, ...] = ()
    """The items of the call that the request has, in the same order."""

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

    def requests(self, call: EmbedCall) -> Iterator[ApiRequest]:
        """The requests of a call; its items are encoded as they are needed, batch by batch."""
        part: list[EncodedItem] = []
        size = 0
        most = 1 if call.argument == "video" else self.batch
        for item in call.items():
            try:
                encoded = encode_item(call, item)
            except EmbeddingError as error:
                call.fail(item, error)
                continue
            if part and (len(part) == most or size + len(encoded.value) > MAX_BATCH_BYTES):
                yield self.request(call, part)
                part, size = [], 0
            part.append(encoded)
            size += len(encoded.value)
        if part:
            yield self.request(call, part)

    def request(self, call: EmbedCall, items: Sequence[EncodedItem]) -> ApiRequest:
        """One request. Images of one kind are a list; URLs and base64 together are frames."""
        values, kinds = [each.value for each in items], {each.kind for each in items}
        fields: dict[str, Any] = {"dimensions": call.dimensions}
        path = "/embeddings"
        if call.argument == "texts":
            path = "/v1/embeddings"
            fields |= {"input": values, "input_type": call.role, "instruction": call.instruction}
        elif call.argument == "video":
            source: dict[str, Any] = {"type": items[0].kind, items[0].kind: values[0]}
            if call.segment is not None:
                source["segment_config"] = dict(call.segment)
            fields["input"] = source
        elif len(kinds) == 1:
            kind = kinds.pop()
            fields["input"] = {"type": kind, kind: values}
        else:
            frames = [{"type": each.kind, each.kind: each.value} for each in items]
            fields["input"] = {"type": "video_frames", "video_frames": frames}
        return ApiRequest("POST", path, self.body(fields), tuple(items))

    def after(
        self, call: EmbedCall, request: ApiRequest, error: EmbeddingError
    ) -> list[ApiRequest]:
        """What to send instead of a request that failed: its other items, if the call skips errors.

        Raises the error, with the position of its item in the call, if there is nothing to send.
        """
        items = list(request.items)
        if error.index is not None and error.index < len(items):
            call.fail(items.pop(error.index).item, error)
            parts = [items]
        elif len(items) == 1 and is_item_error(error):
            call.fail(items[0].item, error)
            parts = []
        elif call.skip and isinstance(error, TooLarge):  # all of them together
            half = len(items) // 2
            parts = [items[:half], items[half:]]
        else:
            raise error
        return [self.request(call, part) for part in parts if part]

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
        raise RemoteFailed(describe(request, reply)) from reply
    try:
        body = reply.json()
    except ValueError:
        body = None
    if reply.is_success and body is not None:
        return body
    raise to_error(reply.status_code, body if isinstance(body, dict) else {})


def describe(request: ApiRequest, error: httpx2.TransportError) -> str:
    """Why there is no reply, and what to do."""
    kind = type(error).__name__
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        try:
            where = str(error.request.url.copy_with(raw_path=b"/")).rstrip("/")
        except RuntimeError:
            where = "the server"
        return f"could not connect to {where} ({kind}); is it running (mmes serve), is url right?"
    if isinstance(error, httpx2.TimeoutException):
        return f"the server did not answer {request.path} in time ({kind}); raise timeout="
    return f"the server did not respond: {kind}"


def to_error(status: int, body: Mapping[str, Any]) -> EmbeddingError:
    """An error response as one of our classes: by its code, or else by its status.

    The error's index counts the items of the request.
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
    error.index = index if isinstance(index, int) else None
    return error


def read_calibration(current: Mapping[str, Any]) -> Calibration:
    """The learned scalars in the answer of /model/current; Intel's service has none."""
    return Calibration(current.get("logit_scale"), current.get("logit_bias"))


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


def results(call: EmbedCall, request: ApiRequest, body: Mapping[str, Any]) -> dict[int, Any]:
    """A reply's vectors by position in the call. Raises RemoteFailed, DimensionsNotAllowed."""
    vectors = read_vectors(body)
    if call.dimensions is not None and vectors.shape[1] != call.dimensions:
        raise DimensionsNotAllowed(
            f"the server ignored dimensions={call.dimensions} and sent {vectors.shape[1]} numbers; "
            "leave dimensions out, or update the server"
        )
    if call.argument == "video":
        frames = [VideoFrame(each["index"], each["timestamp"]) for each in body.get("frames") or ()]
        return {request.items[0].item.index: VideoVectors(vectors, frames)}
    if len(vectors) != len(request.items):
        raise RemoteFailed(f"the server sent {len(vectors)} vectors for {len(request.items)} items")
    return {each.item.index: row for each, row in zip(request.items, vectors, strict=True)}


def encode_item(call: EmbedCall, item: CallItem) -> EncodedItem:
    """URLs stay URLs, all other media become base64. Raises InvalidInput, NotFound."""
    if call.argument == "texts":
        return EncodedItem(item, "text", item.value)
    kind, value = media_item("video" if call.argument == "video" else "image", item.value)
    return EncodedItem(item, kind, value)


def media_item(
    modality: Literal["image", "video"], value: str | Path | bytes | Image.Image | NDArray[Any]
) -> tuple[str, str]:
    """(input kind, value) of a URL or of what becomes base64. Raises InvalidInput, NotFound."""
    if isinstance(value, str):
        return f"{modality}_{'base64' if value[:5].lower() == 'data:' else 'url'}", value
    if isinstance(value, np.ndarray):
        value = Image.fromarray(to_uint8(value))
    data = encode_lossless(value) if isinstance(value, Image.Image) else value
    return f"{modality}_base64", encode_base64(data)


def encode_lossless(image: Image.Image) -> bytes:
    """PNG, or TIFF for what PNG can't store (CMYK, 32 bits); includes the EXIF orientation."""
    file = BytesIO()
    if image.mode in PNG_MODES:
        image.save(file, "PNG", exif=image.getexif(), compress_level=1)
    else:
        image.save(file, "TIFF", exif=image.getexif())
    return file.getvalue()


def encode_base64(source: Path | bytes) -> str:
    """Base64 of bytes, or of the file at a path. Raises NotFound, InvalidInput."""
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
    except FileNotFoundError:
        raise NotFound("no such file") from None
    except OSError as error:
        raise InvalidInput(f"can't be read: {error.strerror}") from None
    return base64.b64encode(data).decode()
