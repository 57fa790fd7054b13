"""Measure full-size rows of the catalog on torch: `python -m benchmarks.torch_sizes [NAME …]`.

For each row it writes a checkpoint with random weights in the form of its repository, and loads it
in a process of its own with `EMBEDDING_USE_OV=false` on `--device` (`cuda`). The results go to
`docs/torch_sizes.json`, from which `make docs` writes a table of docs/models.md. With `--served` it
also serves the row over HTTP to callers on the same machine. Needs the dependency group `test`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks.inputs import IMAGES_PER_SIZE, image_files, mosaic, sentences
from benchmarks.load import first_answer, image_requests, text_requests
from benchmarks.measure import load_cell, run
from benchmarks.places import CACHE
from benchmarks.processes import serving
from benchmarks.random_checkpoints import snapshot, write_repository
from benchmarks.real_sizes import isolated_settings, megabytes, rounded, save
from benchmarks.systems import System
from multimodal_embedding_serving.backends.torch import TorchGraph, build_torch_graph
from multimodal_embedding_serving.backends.tuning import measure_rate
from multimodal_embedding_serving.bundles.torch_model import TorchModel
from multimodal_embedding_serving.catalog import MODELS, ModelSpec, resolve
from multimodal_embedding_serving.conversion.torch_model import load_torch_model
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Modality, Row

FIGURES = Path(__file__).parent.parent / "docs" / "torch_sizes.json"
SECONDS = 2.0
TEXTS = 2048
CAPTION = "a photo of {} on the {} under a bright sky"
SIZE = (640, 480)
T = TypeVar("T")


# ── one row, in a process of its own ──


def examine(spec: ModelSpec) -> Iterator[dict[str, Any]]:
    """Measure a row with the environment's settings; yield one figure after the other."""
    settings = Settings.from_env(model=spec.id)
    started = time.perf_counter()
    with Engine.open(settings=settings):
        yield {"first_open_s": time.perf_counter() - started}
    started = time.perf_counter()
    with Engine.open(settings=settings) as engine:
        yield {"open_s": time.perf_counter() - started}
        yield {"memory_mb": torch.cuda.memory_allocated() / 1e6}
        parity = {name: each["minimum"] for name, each in (engine.info.parity or {}).items()}
        yield {"inference": engine.info.inference, "cosine": parity}
        texts = [CAPTION.format(f"cat {number}", f"table {number % 7}") for number in range(TEXTS)]
        yield {"text_per_s": rate(lambda them: engine.embed(texts=them), texts)}
        if "image" in engine.info.modalities:
            photos = [mosaic(SIZE, seed) for seed in range(64)] * 4
            yield {"image_per_s": rate(lambda them: engine.embed(images=them), photos)}
        yield {"peak_mb": torch.cuda.max_memory_allocated() / 1e6}
    model = load_torch_model(settings)
    for modality, plan in model.plans.items():
        rows = draw_rows(model, modality)
        graph = build_torch_graph(plan, settings)
        yield {f"{modality}_s": latency(partial(graph, rows[:1]))}
        for size in (8, 64):
            per_second = rate(graph, rows[:size], graph.parallel)
            yield {f"{modality}_graph_per_s_{size}": per_second}
        yield {f"{modality}_f32_cosine": exactness(model, modality, settings, rows[:4])}
        graph.close()


def draw_rows(model: TorchModel, modality: Modality) -> list[Row]:
    """64 rows as a tower reads them: captions, or noise."""
    transform = dict(model.manifest.towers[modality].transform)
    if modality == "text":
        read = TextTransform(model.tokenizer or "", transform)
        texts = [CAPTION.format(f"dog {number}", f"bridge {number % 5}") for number in range(64)]
        return [features.row for features in read.prepare_many(texts)]
    size = transform["size"]
    return list(np.random.default_rng(0).integers(0, 256, (64, size, size, 3), np.uint8))


def exactness(model: TorchModel, modality: Modality, settings: Settings, rows: list[Row]) -> float:
    """The lowest cosine between float32 on the device and float32 on the CPU."""
    vectors = []
    for device in (settings.device, "cpu"):
        exact = replace(settings, device=device, precision="f32")
        graph: TorchGraph = build_torch_graph(model.plans[modality], exact)
        vectors.append(graph(rows).astype(np.float64))
        graph.close()
    here, there = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in vectors)
    return float((here * there).sum(1).min())


def rate(run: Callable[[Sequence[T]], object], items: Sequence[T], callers: int = 1) -> float:
    """Items per second, after one call to warm up."""
    run(items)
    return measure_rate(run, items, callers, SECONDS)


def latency(call: Callable[[], Any]) -> float:
    """Median seconds of 50 calls, one after the other."""
    times = []
    for _ in range(55):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times[5:]))


# ── rows ──


def measure(spec: ModelSpec, folder: Path, device: str, served: bool) -> dict[str, Any]:
    cache = folder / "hub"
    overrides = {
        "EMBEDDING_USE_OV": "false",
        "EMBEDDING_DEVICE": device,
        "EMBEDDING_REQUEST_TIMEOUT_SEC": "3600",
    }
    environ = os.environ | isolated_settings(cache, folder / "models") | overrides
    figures: dict[str, Any] = {"model": spec.id, "layout": write_repository(spec, cache).layout}
    figures["card"] = torch.cuda.get_device_name(device) if device != "cpu" else "CPU"
    figures["checkpoint_mb"] = megabytes(cache)
    command = [sys.executable, "-m", "benchmarks.torch_sizes", "--examine", spec.id]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        figures |= json.loads(line)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    if served:
        figures |= serve(spec, environ)
    return figures


def serve(spec: ModelSpec, environ: Mapping[str, str]) -> dict[str, Any]:
    """Over HTTP: 64 callers with one image each, 8 with 128 texts, and one with one text."""
    CACHE.mkdir(exist_ok=True)
    overrides = {"EMBEDDING_MODEL_ALIASES": "it", "EMBEDDING_MODEL_NAME": spec.id}
    command = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "{port}"]
    system = System("torch", pip=[], command=command, environ={**environ, **overrides})
    tokenizer = snapshot(spec.tokenizer_repo or spec.repos[0], Path(environ["HF_HUB_CACHE"]))
    texts = sentences(tokenizer / "tokenizer.json", 12)
    figures: dict[str, Any] = {}
    with serving(system, Path(spec.id)) as server:
        one = text_requests(texts)
        run(first_answer(server, one[0]))
        cell = load_cell(server, "text", one, 1, SECONDS)
        figures |= {"served_text_p50_s": cell.p50, "served_text_p99_s": cell.p99}
        figures["served_single_texts_per_s"] = load_cell(server, "text", one, 64, SECONDS).rate
        many = text_requests(texts, 128)
        figures["served_texts_per_s"] = load_cell(server, "texts", many, 8, 2 * SECONDS).rate
        photos = image_requests(image_files(SIZE, IMAGES_PER_SIZE))
        cell = load_cell(server, "640x480", photos, 64, 2 * SECONDS)
        figures |= {"served_pictures_per_s": cell.rate, "served_picture_cpu_s": cell.server_cpu}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="models, by id or alias; default: all")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--folder", type=Path, help="folder for temporary files")
    parser.add_argument("--served", action="store_true", help="also measure over HTTP")
    parser.add_argument("--examine", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = [resolve(name) for name in options.names] or [spec for spec in MODELS if spec.repos]
    for spec in rows:
        if options.examine:
            for figure in examine(spec):
                print(json.dumps(figure), flush=True)
            continue
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            figures = measure(spec, Path(folder), options.device, options.served)
        save(figures, FIGURES, "card")
        print(json.dumps(rounded(figures)), flush=True)


if __name__ == "__main__":
    main()
