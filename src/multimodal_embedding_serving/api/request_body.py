"""Request bodies: read within the size limit, parsed within a memory limit, and validated."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar, get_args

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from multimodal_embedding_serving.api.content_encoding import decompress, is_compressed
from multimodal_embedding_serving.api.errors import BodyLate
from multimodal_embedding_serving.errors import InvalidInput, TooLarge
from multimodal_embedding_serving.inputs.kinds import KINDS
from multimodal_embedding_serving.monitoring.request import check_room, hold
from multimodal_embedding_serving.settings import Settings

M = TypeVar("M", bound=BaseModel)

MAX_INLINE_BYTES = 64 * 2**10
"""Larger bodies are parsed on a thread; these block the event loop for less than a millisecond."""
MAX_PARSED_BYTES = 768 << 20
"""Memory that one body may take once it is parsed; 64 MB of prose take a tenth of it."""
CONTAINER_BYTES, VALUE_BYTES = 256, 100
"""Memory of an object or list with its first value, and of each further value."""
MAX_FINDS = 64
"""Occurrences to look for with `find`, before `count` takes over."""

_SURROGATES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
"""An escaped backslash or a surrogate pair (left as it is), or a lone surrogate (group 1)."""

TAGS = tuple(get_args(kind.model_fields["type"].annotation)[0] for kind in KINDS)
"""The values of `type` in a native input."""
FRAME_TAGS = ("image_url", "image_base64")
"""Those of an element of `video_frames`."""
BRANCH = re.compile(r"str|\w+\[.*\]|[A-Z]\w*")
"""A branch of a union in a path of pydantic's: a type, or a class. Fields begin in lower case."""


async def read_body(request: Request, settings: Settings) -> bytes:
    """The whole body, decompressed; stops at EMBEDDING_MAX_BODY_MB, whatever Content-Length says.

    Raises TooLarge, BodyLate, UnsupportedEncoding, InvalidInput if its gzip data is damaged, and
    ClientDisconnect when the client disconnects.
    """
    compressed = is_compressed(request.headers)
    body = await _receive(request, settings)
    if not compressed:
        return body
    limit = settings.max_body_mb * 2**20
    return await asyncio.to_thread(decompress, body, limit, _too_large(settings, " decompressed"))


async def _receive(request: Request, settings: Settings) -> bytes:
    limit = settings.max_body_mb * 2**20
    declared = request.headers.get("content-length", "")
    if declared.isdigit():
        if int(declared) > limit:
            raise _too_large(settings)
        check_room(int(declared))
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.request_timeout):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise _too_large(settings)
                hold(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        message = f"the request body took longer than {settings.request_timeout:g} s to arrive"
        raise BodyLate(message) from None
    return b"".join(chunks)


def _too_large(settings: Settings, state: str = "") -> TooLarge:
    limit = f"{settings.max_body_mb} MB{state} (EMBEDDING_MAX_BODY_MB)"
    return TooLarge(f"the request body is larger than {limit}; send fewer items per request")


async def read_json(request: Request, settings: Settings, model: type[M]) -> M:
    """Read a JSON body as a model. Raises the errors of `read_body` and `validate`."""
    return await read_chosen(request, settings, lambda _: model)


async def read_chosen(
    request: Request, settings: Settings, choose: Callable[[Mapping[str, Any]], type[M]]
) -> M:
    """Read a JSON body as the model that `choose` returns for its object."""
    body = await read_body(request, settings)
    try:
        if len(body) <= MAX_INLINE_BYTES:
            return validate(choose, body)
        return await asyncio.to_thread(validate, choose, body)
    except NotJson as error:
        raise InvalidInput(error.message + _advice(request)) from None


class NotJson(InvalidInput):
    """The body is something else: `read_chosen` adds what its content type suggests."""


def _advice(request: Request) -> str:
    content_type = request.headers.get("content-type", "").lower()
    if content_type.startswith("multipart/form-data"):
        return "; forms are accepted by POST /v1/embeddings and /predict only, send JSON here"
    return '; send a JSON object such as {"input": …}'


def validate(choose: Callable[[Mapping[str, Any]], type[M]], body: bytes) -> M:
    """A JSON body as a model. Raises InvalidInput with the field and the item's index."""
    data = load_json(body)
    if not isinstance(data, dict):
        raise NotJson("the request body must be a JSON object")
    try:
        return choose(data).model_validate(data)
    except ValidationError as error:
        raise explain(error) from None


def load_json(body: bytes) -> Any:
    """Strict JSON, except that lone surrogates become U+FFFD.

    Raises NotJson, TooLarge if parsing would take too much memory, and QueueFull if it would
    do so together with the other requests in progress.
    """
    if not body:
        raise NotJson("the request body is empty")
    size = parsed_bytes(body)
    if size > MAX_PARSED_BYTES:
        message = (
            f"the request body has too many values: parsing would take {size >> 20} MB of memory"
        )
        raise TooLarge(f"{message}; the limit is {MAX_PARSED_BYTES >> 20} MB")
    hold(size)
    if len(body) > MAX_INLINE_BYTES:  # one long string, most likely
        with suppress(ValueError):
            # holds the GIL for a fifth of the time that orjson does
            return from_json(body, allow_inf_nan=False, cache_strings=False)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "surrogate in string" in error.msg:
            try:
                return orjson.loads(_SURROGATES.sub(_replace_lone, body))
            except orjson.JSONDecodeError as second:
                error = second
        raise NotJson(f"the request body is not valid JSON: {error}") from None


def parsed_bytes(body: bytes) -> int:
    """An upper bound of the memory that JSON takes once it is parsed, computed without parsing.

    `[],` is three bytes and becomes ninety: 64 MB of it would take 2 GB, and block the process for
    13 s. Brackets and commas in strings count too: telling them apart would cost as much as
    parsing.
    """
    # Searching for one byte is 50 times as fast as for two, and base64 contains no backslash.
    escaped = b"\\" in body and b"\\u" in body
    wide = 0 if body.isascii() and not escaped else 4
    opened = _count(body, b"{") + _count(body, b"[")
    return len(body) * (1 + wide) + CONTAINER_BYTES * opened + VALUE_BYTES * _count(body, b",")


def _count(body: bytes, mark: bytes) -> int:
    """`body.count(mark)`; for a few occurrences, `find` takes a fifteenth of the time."""
    at, count = body.find(mark), 0
    while at >= 0 and count < MAX_FINDS:
        at, count = body.find(mark, at + 1), count + 1
    return count if at < 0 else count + body.count(mark, at)


def _replace_lone(match: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if match.group(1) else match.group(0)


def explain(error: ValidationError, *start: str) -> InvalidInput:
    """The deepest error: of the branches of a union, the one that validated furthest.

    `start` is the path of the validated value. The message begins with the path as the client
    wrote it, `input.text[1]: …`; `param` has it as `input.text.1`.
    """
    details = error.errors(include_url=False, include_context=False, include_input=False)
    paths = [([*start, *_path(each["loc"])], each) for each in details]
    # Of two branches that fail at the same depth, the one with the right type is meant.
    path, detail = max(
        paths, key=lambda each: (len(each[0]), not each[1]["type"].endswith("_type"))
    )
    index = next((part for part in path if isinstance(part, int)), None)
    param = ".".join(str(part) for part in path)
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    reason = _reason(path, detail["type"], detail["msg"])
    message = f"{field.removeprefix('.')}: {reason}" if path else reason
    return InvalidInput(message, index=index, param=param or None)


def _reason(path: Sequence[int | str], kind: str, message: str) -> str:
    """What a field must be, from pydantic's message."""
    if kind == "missing":
        return "is required"
    if kind == "model_attributes_type":
        others = ", a string or a list" if path == ["input"] else ""
        return f"must be an object{others}"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        kinds = FRAME_TAGS if "video_frames" in path else TAGS
        given = re.search(r"tag '(.*)' found using", message, re.DOTALL)
        problem = f"type {given[1][:80]!r} is unknown" if given else "type is required"
        return f"{problem}; use one of {', '.join(kinds)}"
    message = message.removeprefix("Value error, ").partition(" after validation")[0]
    return re.sub("^(Input|List) should ", "must ", message)


def _path(loc: tuple[int | str, ...]) -> list[int | str]:
    """The location without the names of union branches, which only pydantic knows."""
    path: list[int | str] = []
    for before, part in zip((None, *loc), loc, strict=False):
        tag = part in TAGS and (before == "input" or isinstance(before, int))
        if not tag and not (isinstance(part, str) and BRANCH.fullmatch(part)):
            path.append(part)
    return path
