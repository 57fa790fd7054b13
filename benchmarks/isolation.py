"""What EMBEDDING_IMAGE_ISOLATION costs: decoding in this process, and in processes of its own.

    python -m benchmarks.isolation

Prints a table: milliseconds of processor time per image (of the service and of the decoder), and
images per second with one thread per core. The two ways take turns, and the medians are shown, so
that other work on the machine changes both alike.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from multimodal_embedding_serving.media.decoder_pool import DecoderPool
from multimodal_embedding_serving.media.image import ImageLimits, decode_rgb
from multimodal_embedding_serving.media.image_decoding import ImageDecoding
from multimodal_embedding_serving.settings import IMAGE_FORMATS

LIMITS = ImageLimits(max_bytes=32 << 20, max_pixels=64_000_000, formats=tuple(IMAGE_FORMATS))
TICK = 1 / os.sysconf("SC_CLK_TCK")
CASES = (
    ("JPEG 224 x 224", (224, 224), "JPEG", 0, 400),
    ("JPEG 640 x 480", (640, 480), "JPEG", 0, 200),
    ("PNG 640 x 480", (640, 480), "PNG", 0, 100),
    ("JPEG 4000 x 3000, fast", (4000, 3000), "JPEG", 224, 20),
    ("JPEG 4000 x 3000, exact", (4000, 3000), "JPEG", 0, 6),
)
"""Name, size, format, the side that the model needs (0: decode at full size), images per round."""

Decode = Callable[[bytes, int], object]


def picture(size: tuple[int, int], form: str) -> bytes:
    """Smooth waves with noise, which compress about as photographs do."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    waves = np.dstack([np.sin(x / 40), np.cos(y / 60), np.sin((x + y) / 90)]) * 90 + 128
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 1))
    out = io.BytesIO()
    Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8)).save(out, form)
    return out.getvalue()


def processor_seconds(pids: list[int]) -> float:
    """User and system time that the processes have used."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(") ")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * TICK


def resident(pid: int) -> float:
    """Megabytes of private memory."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def rate(decode: Decode, data: bytes, side: int, count: int, threads: ThreadPoolExecutor) -> float:
    started = time.perf_counter()
    for _ in threads.map(lambda _: decode(data, side), range(count)):
        pass
    return count / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    pool = DecoderPool(1, 0, kind="image")
    cores = len(os.sched_getaffinity(0))

    def here(data: bytes, side: int) -> object:
        return decode_rgb(data, LIMITS, min_side=side)

    def apart(data: bytes, side: int) -> object:
        decoding = ImageDecoding(pool, LIMITS, min_side=side, copied=False)
        return decoding.decode(data, lambda size, scratch=0: None)

    print("| image | here, ms | service + decoder, ms | images/s here | images/s isolated |")
    print("| --- | --- | --- | --- | --- |")
    with ThreadPoolExecutor(cores) as threads:
        for name, size, form, side, count in CASES:
            data = picture(size, form)
            apart(data, side)
            figures: list[tuple[float, ...]] = []
            for _ in range(rounds):
                start = time.process_time()
                rate_here = rate(here, data, side, count, threads)
                cost = time.process_time() - start
                start, before = time.process_time(), processor_seconds(pool.pids)
                rate_apart = rate(apart, data, side, count, threads)
                service = time.process_time() - start
                decoder = processor_seconds(pool.pids) - before
                figures.append((cost, service, decoder, rate_here, rate_apart))
            medians = [statistics.median(column) for column in zip(*figures, strict=True)]
            cost, service, decoder = (1000 * value / count for value in medians[:3])
            rates = f"{medians[3]:.0f} | {medians[4]:.0f}"
            print(f"| {name} | {cost:.1f} | {service:.1f} + {decoder:.1f} | {rates} |", flush=True)
        # here, because a process ends with the thread that started it
        memory = ", ".join(f"{resident(pid):.0f}" for pid in pool.pids)
    starts = []
    for _ in range(rounds):
        started = time.perf_counter()
        again = DecoderPool(1, 0, kind="image")
        ImageDecoding(again, LIMITS, min_side=0, copied=False).decode(
            picture((64, 64), "PNG"), lambda size, scratch=0: None
        )
        starts.append(time.perf_counter() - started)
        again.close()
    print(f"private memory of each process: {memory} MB")
    print(f"a process starts and decodes its first image in {statistics.median(starts):.2f} s")
    pool.close()


if __name__ == "__main__":
    main()
