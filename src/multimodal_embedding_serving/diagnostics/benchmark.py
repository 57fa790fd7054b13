"""How fast a model is on this machine, or a server from here: a quick measurement.

Inputs are made here and differ from each other: equal ones in flight are computed only once.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from multimodal_embedding_serving.bulk.models import Model

TEXTS = 32
"""Of one request, while the rate is measured."""
SIZE = (640, 480)
"""Pixels of the photos."""
SPARE = 8
"""Photos more than can be in flight, so that none is there twice."""
MOST_SINGLE = 50


@dataclass(frozen=True, slots=True)
class Rate:
    """Of one kind of input."""

    kind: str
    per_second: float
    """With as many in flight as keep the model busy."""
    single_ms: float
    """Median of single ones, one after the other."""
    singles: int
    """How many that is the median of."""

    def facts(self) -> dict[str, Any]:
        return asdict(self)


async def measure(model: Model, folder: Path, seconds: float) -> list[Rate]:
    """The rates of texts and of photos, each over some seconds. Photos are made in `folder`.

    Raises what the model raises.
    """
    rates = []
    numbers = count()

    async def text(size: int) -> None:
        # Lengths as those of captions, and no two alike.
        listed = [f"a photo of object number {next(numbers)} on a table" for _ in range(size)]
        await model.texts(listed)

    if "text" in model.identity.kinds:
        rates.append(await _measure("text", text, TEXTS, model.parallel // 4, seconds))
    if "image" in model.identity.kinds:
        photos = await asyncio.to_thread(take_photos, folder, model.parallel + SPARE)
        turn = _round(photos)

        async def photo(_: int) -> None:
            await model.image(next(turn))

        rates.append(await _measure("image", photo, 1, model.parallel, seconds))
    return rates


async def _measure(
    kind: str, call: Callable[[int], Awaitable[None]], size: int, parallel: int, seconds: float
) -> Rate:
    await call(1)  # the first one warms up
    took: list[float] = []
    end = time.monotonic() + seconds / 3
    while len(took) < MOST_SINGLE and (not took or time.monotonic() < end):
        started = time.perf_counter()
        await call(1)
        took.append(time.perf_counter() - started)
    done, started = 0, time.monotonic()

    async def work() -> None:
        nonlocal done
        while time.monotonic() - started < seconds:
            await call(size)
            done += size

    async with asyncio.TaskGroup() as group:
        for _ in range(max(1, parallel)):
            group.create_task(work())
    elapsed = time.monotonic() - started
    return Rate(kind, done / elapsed, 1e3 * statistics.median(took), len(took))


def take_photos(folder: Path, number: int) -> list[Path]:
    """JPEGs that differ, with some detail."""
    paths = [folder / f"{each}.jpg" for each in range(number)]
    for seed, path in enumerate(paths):
        coarse = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8)
        Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


def _round(photos: list[Path]) -> Iterator[Path]:
    while True:
        yield from photos
