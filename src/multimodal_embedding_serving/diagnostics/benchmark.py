"""A quick benchmark: the throughput and latency of a model here, or of a server seen from here.

All inputs are generated and differ: equal inputs that are in flight together are computed once.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from itertools import count, cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from multimodal_embedding_serving.bulk.models import Model

TEXTS_PER_REQUEST = 32
"""While the rate is measured."""
PHOTO_SIZE = (640, 480)
"""Width and height in pixels."""
SPARE_PHOTOS = 8
"""Photos beyond those that can be in flight, so that none is in flight twice."""
MAX_SINGLES = 50
"""Single inputs whose latency is measured."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Throughput and latency for one kind of input."""

    kind: str
    per_second: float
    """Items per second, with enough of them in flight to keep the model busy."""
    single_ms: float
    """Median latency of single items in milliseconds, one after the other."""
    singles: int
    """The number of latencies in that median."""

    def facts(self) -> dict[str, Any]:
        return asdict(self)


async def measure(model: Model, folder: Path, seconds: float) -> list[Rate]:
    """Measure texts and photos for `seconds` each; photos are written to `folder`.

    Raises what the model raises.
    """
    rates = []
    numbers = count()

    async def text(size: int) -> None:
        # As long as captions, and no two alike.
        texts = [f"a photo of object number {next(numbers)} on a table" for _ in range(size)]
        await model.texts(texts)

    if "text" in model.identity.kinds:
        rates.append(await _measure("text", text, TEXTS_PER_REQUEST, model.parallel // 4, seconds))
    if "image" in model.identity.kinds:
        photo_count = model.parallel + SPARE_PHOTOS
        photos = cycle(await asyncio.to_thread(make_photos, folder, photo_count))

        async def photo(_: int) -> None:
            await model.image(next(photos))

        rates.append(await _measure("image", photo, 1, model.parallel, seconds))
    return rates


async def _measure(
    kind: str, call: Callable[[int], Awaitable[None]], size: int, parallel: int, seconds: float
) -> Rate:
    await call(1)  # warm-up
    latencies: list[float] = []
    end = time.monotonic() + seconds / 3
    while len(latencies) < MAX_SINGLES and (not latencies or time.monotonic() < end):
        started = time.perf_counter()
        await call(1)
        latencies.append(time.perf_counter() - started)
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
    return Rate(kind, done / elapsed, 1e3 * statistics.median(latencies), len(latencies))


def make_photos(folder: Path, count: int) -> list[Path]:
    """Write `count` different JPEGs with some detail."""
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for seed, path in enumerate(paths):
        coarse = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8)
        Image.fromarray(coarse).resize(PHOTO_SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
    return paths
