"""`make look`: the start time and throughput of the embedded model on this machine.

It measures the time from the start of a process to its first vector, in process and over HTTP, and
how many texts, photos and video frames of the shipped samples it embeds per second: the best of
three runs each.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import httpx2

from multimodal_embedding_serving import Client, Engine

ROUNDS = 3
FIRST_TEXT = """
from multimodal_embedding_serving import Engine
with Engine.open() as engine:
    engine.embed(texts="a cat")
"""
FIRST_IMAGE = FIRST_TEXT.replace('texts="a cat"', "images={photo!r}")
ADDRESS = re.compile(r"running on (http://\S+)")


def best(measure: Callable[[], float]) -> float:
    return min(measure() for _ in range(ROUNDS))


def run_program(program: str) -> float:
    """Seconds from the start of a Python process that runs `program` to its end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - started


def start_server() -> tuple[subprocess.Popen[str], str]:
    """`mmes serve` on a free port, ready to answer, and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None  # noqa: S101  # stderr is a pipe
    for line in process.stderr:
        if match := ADDRESS.search(line):
            while httpx2.get(f"{match[1]}/ready", trust_env=False).status_code != 200:
                time.sleep(0.01)
            return process, match[1]
    raise SystemExit("the server did not start")


def first_answer() -> float:
    """Seconds from the start of the server to its first vector over HTTP."""
    started = time.perf_counter()
    process, address = start_server()
    with Client(address) as client:
        client.embed_texts("a cat")
        elapsed = time.perf_counter() - started
    process.send_signal(signal.SIGTERM)
    process.communicate()
    return elapsed


def rate(items: int, embed: Callable[[], object]) -> float:
    """Items per second; `embed` embeds that many."""
    embed()  # warm up

    def measure() -> float:
        started = time.perf_counter()
        embed()
        return time.perf_counter() - started

    return items / best(measure)


def main() -> None:
    samples = Path(str(files("multimodal_embedding_serving") / "builtin" / "samples"))
    photos = sorted(samples.glob("*.jpg")) * 8
    segment = {"num_frames": 16}
    texts = [f"{number} things to see in a photograph" for number in range(256)]
    print(f"{len(os.sched_getaffinity(0))} cores, Python {sys.version.split()[0]}")
    print(f"process start to first text vector    {best(lambda: run_program(FIRST_TEXT)):7.2f} s")
    program = FIRST_IMAGE.format(photo=str(photos[0]))
    print(f"process start to first image vector   {best(lambda: run_program(program)):7.2f} s")
    print(f"server start to first text over HTTP  {best(first_answer):7.2f} s")
    with Engine.open() as engine:
        print(f"in process  {engine.info.id}, {engine.info.inference}")
        print(f"  texts/s   {rate(len(texts), lambda: engine.embed(texts=texts)):8.1f}")
        print(f"  photos/s  {rate(len(photos), lambda: engine.embed(images=photos)):8.1f}")
        frames = rate(16, lambda: engine.embed(video=samples / "film.mp4", segment=segment))
        print(f"  frames/s  {frames:8.1f}  (16 of a video)")
    process, address = start_server()
    with Client(address) as client:
        print("over HTTP, one client")
        print(f"  texts/s   {rate(len(texts), lambda: client.embed_texts(texts)):8.1f}")
        print(f"  photos/s  {rate(len(photos), lambda: client.embed_images(photos)):8.1f}")
    process.send_signal(signal.SIGTERM)
    process.communicate()


if __name__ == "__main__":
    main()
