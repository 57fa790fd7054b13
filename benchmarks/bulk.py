"""How close a bulk job comes to what the machine can do: a folder of photos into one file.

    .venv/bin/python benchmarks/bulk.py [--photos 200] [--size 1280x720]

The limit is the number of cores divided by the CPU seconds that a photo needs at least: to be read,
decoded and resized by one thread, and to run through the graph in full batches. While other
programs use the machine, the rate says little; look at the CPU time per photo instead, and at the
share of the time in which as many threads as there are cores were running or runnable, by the
kernel's statistics.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from multimodal_embedding_serving import Engine
from multimodal_embedding_serving.bulk.job import Options, run
from multimodal_embedding_serving.bulk.listing import Listing
from multimodal_embedding_serving.bulk.models import LocalModel
from multimodal_embedding_serving.bulk.output import FileOutput
from multimodal_embedding_serving.settings import Settings

BATCH = 8


def make_photos(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    """Write JPEGs with as much detail as photos have."""
    paths = []
    for number in range(count):
        coarse = np.random.default_rng(number).integers(0, 255, (45, 80, 3), np.uint8)
        path = folder / f"{number:05}.jpg"
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
    return paths


def min_cost(engine: Engine, paths: list[Path]) -> tuple[float, float]:
    """CPU seconds per photo: (preparation on one thread, the graph in full batches)."""
    tower: Any = engine.towers["image"]
    started = time.thread_time()
    features = [each for path in paths for each in tower._prepare([path])]
    prepare = (time.thread_time() - started) / len(paths)
    rows = [each.row for each in features]
    tower.graph(rows[:BATCH])
    started = time.process_time()
    for start in range(0, len(rows), BATCH):
        tower.graph(rows[start : start + BATCH])
    return prepare, (time.process_time() - started) / len(rows)


def scheduled_times() -> dict[str, tuple[int, int]]:
    """For each thread of this process: nanoseconds on a core, and nanoseconds waiting for one."""
    times = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            running, waiting, _ = (task / "schedstat").read_text().split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        times[task.name] = int(running), int(waiting)
    return times


class Demand:
    """How many threads are running or runnable, sampled while the work goes on."""

    def __init__(self, cores: int) -> None:
        self._cores, self._ended = cores, threading.Event()
        self._shares: list[float] = []
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def share(self) -> float:
        return float(np.mean(self._shares))

    def _sample(self) -> None:
        before, then = scheduled_times(), time.monotonic()
        while not self._ended.wait(0.2):
            now, at = scheduled_times(), time.monotonic()
            demand = sum(sum(now[task]) - sum(before.get(task, (0, 0))) for task in now)
            self._shares.append(min(1.0, demand / 1e9 / (at - then) / self._cores))
            before, then = now, at


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--size", default="1280x720")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    cores, settings = len(os.sched_getaffinity(0)), Settings.from_env()
    with tempfile.TemporaryDirectory() as place:
        (folder := Path(place, "photos")).mkdir()
        paths = make_photos(folder, options.photos, (width, height))
        engine = Engine.open(settings=settings)
        prepare, graph = min_cost(engine, paths[:64])
        model = LocalModel(engine, settings)

        async def work() -> None:
            output = FileOutput(Path(place, "vectors.npy"))
            await run(Listing((str(folder),)), model, output, Options())
            await model.aclose()

        started, cpu = time.monotonic(), time.process_time()
        with Demand(cores) as demand:
            asyncio.run(work())
        wall, cpu = time.monotonic() - started, time.process_time() - cpu
    limit, rate = cores / (prepare + graph), options.photos / wall
    print(f"{engine.info.id}, {options.photos} photos of {options.size}, {cores} cores")
    print(f"least CPU per photo: {1e3 * prepare:.1f} ms preparation + {1e3 * graph:.1f} ms graph")
    print(f"limit {limit:.1f}/s, bulk {rate:.1f}/s: {rate / limit:.2f}")
    per_photo = cpu / options.photos
    share = (prepare + graph) / per_photo
    print(f"CPU per photo in bulk {1e3 * per_photo:.1f} ms: {share:.2f}")
    print(f"share of cores in demand: {demand.share:.2f}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
