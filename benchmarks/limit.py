"""The limits: our graphs alone in OpenVINO's benchmark_app, and our preparation alone."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.figures import GraphRate, Preparation
from benchmarks.inputs import Video
from benchmarks.processes import cpu_seconds
from benchmarks.systems import OURS
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.media.image import ImageLimits, decode_rgb
from multimodal_embedding_serving.media.sampling import Segment, VideoLimits
from multimodal_embedding_serving.media.video import read_frames
from multimodal_embedding_serving.transforms.image import ImageTransform

COUNT = re.compile(r"Count:\s+(\d+) iterations")
DURATION = re.compile(r"Duration:\s+([\d.]+) ms")
MEDIAN = re.compile(r"Median:\s+([\d.]+) ms")
MEASURING, MEASURED = "First inference took", "[Step 11/11]"
"""The lines after the first call, which does not count as an iteration, and after the last one."""
IMAGE_LIMITS = ImageLimits(max_bytes=1 << 30, max_pixels=1 << 30, formats=("JPEG",))
VIDEO_LIMITS = VideoLimits(max_bytes=1 << 30, max_seconds=1e6, max_frames=1 << 20)
Hint = Literal["throughput", "latency"]


class BenchmarkAppError(Exception):
    """benchmark_app failed, or printed a report that can't be parsed."""


@dataclass(frozen=True)
class GraphCase:
    """A tower with one input shape: `length` tokens, or an image if `length` is None."""

    name: str
    graph: Path
    length: int | None = None

    def arrays(self, batch: int) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
        """Input values by name; token ids are below 256, which every vocabulary here has."""
        rng = np.random.default_rng(0)
        model = ov.Core().read_model(self.graph)
        if self.length is None:
            pixels = [int(each.get_length()) for each in model.inputs[0].partial_shape[1:]]
            return {model.inputs[0].any_name: rng.integers(0, 256, (batch, *pixels), np.uint8)}
        shape = (batch, self.length)
        return {
            port.any_name: np.ones(shape, np.int32)
            if "mask" in port.any_name
            else rng.integers(0, 256, shape, np.int32)
            for port in model.inputs
        }


def benchmark_app(
    case: GraphCase, batch: int, hint: Hint, seconds: int, precision: str
) -> GraphRate:
    """One run of the tool, in the service's environment and at its inference precision."""
    with tempfile.TemporaryDirectory() as folder:
        files, shapes = [], []
        for name, array in case.arrays(batch).items():
            np.save(Path(folder, f"{name}.npy"), array)
            files.append(f"{name}:{Path(folder, name)}.npy")
            shapes.append(f"{name}[{','.join(map(str, array.shape))}]")
        command = [
            *(str(OURS.home / "bin" / "benchmark_app"), "-m", str(case.graph), "-d", "CPU"),
            *("-i", ",".join(files), "-shape", ",".join(shapes), "-hint", hint),
            *("-t", str(seconds), "-infer_precision", precision),
        ]
        report, cpu = watch(command)
    return read_report(report, case.name, case.graph.stem, batch, hint, cpu)


def watch(command: Sequence[str]) -> tuple[str, float]:
    """(the tool's output, its CPU seconds while it measures)."""
    # Unbuffered, to know when the measurement starts: reading and compiling the graph do not count.
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    lines, before, after = [], 0.0, 0.0
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101  # stdout is a pipe
        for line in process.stdout:
            lines.append(line)
            if MEASURING in line:
                before = cpu_seconds(process.pid)
            elif line.startswith(MEASURED):
                after = cpu_seconds(process.pid)
    return "".join(lines), after - before


def read_report(
    report: str, case: str, graph: str, batch: int, hint: Hint, cpu: float
) -> GraphRate:
    """Raises BenchmarkAppError with the end of the report."""
    count, duration, median = (each.search(report) for each in (COUNT, DURATION, MEDIAN))
    if count is None or duration is None or median is None:
        raise BenchmarkAppError(f"benchmark_app on {case}: {report[-800:]}")
    return GraphRate(
        graph=graph,
        case=case,
        batch=batch,
        hint=hint,
        rate=int(count[1]) * batch / (float(duration[1]) / 1000),
        median=float(median[1]) / 1000,
        cpu=cpu / (int(count[1]) * batch),
    )


def preparation(case: str, paths: Sequence[Path], bundle: Bundle) -> Preparation:
    """This service's own decoding and resizing, on this thread only."""
    transform = ImageTransform.from_manifest(bundle.manifest.towers["image"].transform)
    decode = resize = 0.0
    for path in paths:
        data = path.read_bytes()
        started = time.thread_time()
        image = decode_rgb(data, IMAGE_LIMITS, min_side=transform.min_side)
        decoded = time.thread_time()
        transform(image)
        decode, resize = decode + decoded - started, resize + time.thread_time() - decoded
    return Preparation(case=case, decode=decode / len(paths), resize=resize / len(paths))


def decoding(video: Video, rounds: int) -> tuple[int, float]:
    """(frames, seconds) to decode a video's sampled frames alone: the best of `rounds`."""
    best, frames = float("inf"), 0
    segment = Segment(
        num_frames=int(video.segment.get("num_frames", 64)),
        extraction_fps=video.segment.get("extraction_fps"),
    )
    for _ in range(rounds):
        started = time.perf_counter()
        frames = sum(1 for _ in read_frames(video.path, segment, VIDEO_LIMITS))
        best = min(best, time.perf_counter() - started)
    return frames, best
