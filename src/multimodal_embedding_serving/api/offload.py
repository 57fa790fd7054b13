"""Work that is too long for the event loop goes to a thread; short work is done where it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

MAX_INLINE = 64 * 2**10
"""Bytes that are parsed, or numbers that are encoded, on the event loop: under a millisecond."""


async def run(size: float, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> T:
    """Call `function` here, or on a thread where its work of `size` is above MAX_INLINE."""
    if size <= MAX_INLINE:
        return function(*arguments, **named)
    return await asyncio.to_thread(function, *arguments, **named)
