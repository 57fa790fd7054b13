"""Request bodies: read within the limits, parsed within bounds of memory, validated."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Any, TypeVar, get_args

import orjson
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from multimodal_embedding_serving.api.errors import BodyLate
from multimodal_embedding_serving.errors import InvalidInput, TooLarge
from multimodal_embedding_serving.inputs.kinds import KINDS
from multimodal_embedding_serving.monitoring.request import hold
from multimodal_embedding_serving.settings import Settings

M = TypeVar("M", bound=BaseModel)

MAX_INLINE_BYTES = 64 * 2**10
"""Larger bodies are parsed on a thread: these take the event loop under a millisecond."""
MAX_PARSED_BYTES = 768 << 20
"""Bytes that one body may take once it is parsed; 64 MB of prose take a tenth of it."""
CONTAINER_BYTES, VALUE_BYTES = 256, 100
"""Bytes of an object or a list, with its first value, and of each further value."""
MAX_SOUGHT = 64
"""Marks of a kind that are sought one by one; beyond that they are counted."""

_SURROGATES = re.compile(
    rb"\\\\|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
"""An escaped backslash or a pair of surrogates (kept), or a lone surrogate (group 1)."""

TAGS = frozenset(get_args(kind.model_fields["type"].annotation)[0] for kind in KINDS)
BRANCHES = frozenset(("str", "list[str]"))


async def read_body(request: Request, settings: Settings) -> bytes:
    """The body, while it is within the limit, whatever Content-Length says.

    Raises TooLarge, BodyLate, and ClientDisconnect when the client goes away.
    """
    limit = settings.max_body_mb * 2**20
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"the body is larger than {settings.max_body_mb} MB")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(settings.request_timeout):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise TooLarge(f"the body is larger than {settings.max_body_mb} MB")
                hold(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise BodyLate("the body did not arrive in time") from None
    return b"".join(chunks)


async def read_json(request: Request, settings: Settings, model: type[M]) -> M:
    """Read a JSON body as a model. Raises what `read_body` and `validate` do."""
    body = await read_body(request, settings)
    if len(body) <= MAX_INLINE_BYTES:
        return validate(model, body)
    return await asyncio.to_thread(validate, model, body)


def validate(model: type[M], body: bytes) -> M:
    """A JSON body as a model. Raises InvalidInput naming the field and the item."""
    data = load_json(body)
    if not isinstance(data, dict):
        raise InvalidInput("the body must be a JSON object")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise explain(error) from None


def load_json(body: bytes) -> Any:
    """Strict JSON, but for lone surrogates, which become U+FFFD. Raises InvalidInput, and TooLarge
    or QueueFull where what it holds takes too much memory."""
    size = parsed_bytes(body)
    if size > MAX_PARSED_BYTES:
        raise TooLarge("the body holds too many values")
    hold(size)
    if len(body) > MAX_INLINE_BYTES:  # one long string, most likely
        with suppress(ValueError):
            # a fifth of the time that orjson would hold the GIL
            return from_json(body, allow_inf_nan=False, cache_strings=False)
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "surrogate in string" in error.msg:
            try:
                return orjson.loads(_SURROGATES.sub(_mend, body))
            except orjson.JSONDecodeError as second:
                error = second
        raise InvalidInput(f"the body is not valid JSON: {error}") from None


def parsed_bytes(body: bytes) -> int:
    """What JSON takes at most once it is parsed, told without parsing it.

    `[],` is three bytes and becomes ninety: 64 MB of that would take 2 GB, and 13 s during which
    nothing else of the process could run. Marks within texts count too, since telling them apart
    would cost as much as parsing.
    """
    # One byte is sought 50 times as fast as two, and base64 holds no backslash.
    escaped = b"\\" in body and b"\\u" in body
    wide = 0 if body.isascii() and not escaped else 4
    opened = _count(body, b"{") + _count(body, b"[")
    return len(body) * (1 + wide) + CONTAINER_BYTES * opened + VALUE_BYTES * _count(body, b",")


def _count(body: bytes, mark: bytes) -> int:
    """`body.count(mark)`: where there are few, seeking each costs a fifteenth of counting."""
    at, found = body.find(mark), 0
    while at >= 0 and found < MAX_SOUGHT:
        at, found = body.find(mark, at + 1), found + 1
    return found if at < 0 else found + body.count(mark, at)


def _mend(match: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if match.group(1) else match.group(0)


def explain(error: ValidationError, *start: str) -> InvalidInput:
    """The error that lies deepest: where a union was tried, the branch that came furthest.

    `start` is where the validated value lies.
    """
    found = error.errors(include_url=False, include_context=False, include_input=False)
    paths = [([*start, *_path(each["loc"])], each["msg"]) for each in found]
    path, message = max(paths, key=lambda each: len(each[0]))
    index = next((part for part in path if isinstance(part, int)), None)
    where = ".".join(str(part) for part in path)
    reason = message.removeprefix("Value error, ")
    return InvalidInput(f"{where}: {reason}" if where else reason, index=index, param=where or None)


def _path(loc: tuple[int | str, ...]) -> list[int | str]:
    """A location without what only pydantic knows: names of union branches."""
    path: list[int | str] = []
    for before, part in zip((None, *loc), loc, strict=False):
        tag = part in TAGS and (before == "input" or isinstance(before, int))
        if not tag and part not in BRANCHES:
            path.append(part)
    return path
