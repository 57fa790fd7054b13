"""Tuning: measures how a model's graphs run best on this machine; loading applies the result.

Streams run several calls at a time, threads share one call's work, and a batch is the items of one
call. Which combination is best depends on the model and on the processor, so `mmes tune` measures
them; `mmes convert` does so briefly. The result is stored beside the compiled graphs, under a name
specific to this model, device, processor and OpenVINO version. Where a setting names streams,
threads, requests or a mode, no tuned config is used. A server never measures by itself: that would
slow down requests, and measurements under load would be wrong.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from multimodal_embedding_serving.backends import compile_tower
from multimodal_embedding_serving.backends.openvino import cache_folder
from multimodal_embedding_serving.backends.quantization import group_size
from multimodal_embedding_serving.backends.static import is_static
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.bundles.checksums import open_json, seal_json
from multimodal_embedding_serving.bundles.torch_model import TorchModel
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.text import TextTransform
from multimodal_embedding_serving.types import Graph, Modality, Progress, Row, ignore_progress

log = logging.getLogger(__name__)

QUICK_SECONDS = 2.5
"""How long `mmes convert` measures."""
BATCHES = {"image": (1, 2, 4, 8, 16), "text": (8, 16, 32, 64)}
"""Batch sizes to measure; none exceeds what the settings allow."""
MIN_RATE_SHARE = 0.9
"""Among the configs with at least this share of the best rate, the lowest latency wins."""
FILES = "tuning-"
VERSION = 1
"""Of the file: results of another version are not read."""
CAPTIONS = ("a photo of a cat", "two people walk along the beach at sunset with their dog")

Compiler = Callable[[Bundle, Modality, Settings], Graph]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TunedConfig:
    """One configuration of a tower's graph and its speed."""

    streams: int
    threads: int
    """All streams together."""
    batch: int
    rate: float
    """Items per second with all streams busy."""
    latency: float
    """Seconds for a call with one item while nothing else runs."""

    def __str__(self) -> str:
        streams = f"{self.streams} streams on {self.threads} threads, batches up to {self.batch}"
        return f"{streams}: {self.rate:.1f}/s, {1000 * self.latency:.1f} ms for one"

    def applied(self, settings: Settings) -> Settings:
        return dataclasses.replace(settings, num_streams=self.streams, num_threads=self.threads)


def can_tune(settings: Settings) -> bool:
    """Whether there is anything to tune: not for torch, nor for devices with static shapes."""
    return settings.use_openvino and not is_static(settings.device)


def find_tuned_config(
    model: Bundle | TorchModel, modality: Modality, settings: Settings
) -> TunedConfig | None:
    """The tuned config of this tower here; None if there is none or settings override it."""
    explicit = settings.num_streams or settings.num_threads or settings.num_requests
    if explicit or settings.performance_mode != "auto" or not isinstance(model, Bundle):
        return None
    folder = cache_folder(model.graph(modality), settings)
    if not any(folder.glob(f"{FILES}*")):  # querying the device's name is slow
        return None
    try:
        content = open_json(_place(model, settings).read_bytes())
        return TunedConfig(**content["towers"][modality])
    except (OSError, KeyError):  # not tuned, or not this tower
        return None
    except (ValueError, TypeError):
        log.warning("the tuning results are damaged and not used; run `mmes tune` again")
        return None


def tune(
    bundle: Bundle,
    settings: Settings,
    *,
    seconds: float,
    progress: Progress = ignore_progress,
    compiler: Compiler = compile_tower,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Modality, TunedConfig]:
    """Measure every tower, for `seconds` in total, and save the best configs.

    A tower that cannot be measured in that time is left out: half a measurement misleads. Raises
    SettingsError.
    """
    best: dict[Modality, TunedConfig] = {}
    towers = list(bundle.manifest.towers)
    for place, modality in enumerate(towers):
        progress("tuning the graphs", place / len(towers))
        rows = sample_rows(bundle, modality)
        configs = measure(bundle, modality, settings, rows, seconds / len(towers), compiler, clock)
        if configs:
            best[modality] = choose(configs)
    if best:
        _save(bundle, settings, best)
    return best


def candidates(cores: int) -> Iterator[tuple[int, int]]:
    """(streams, threads): the extremes first, because time may run out; then half of the threads,
    for processors with two threads per core."""
    doubling = [1 << power for power in range(cores.bit_length()) if 1 << power <= cores]
    streams = sorted({*doubling, cores}, key=lambda each: (1 < each < cores, each))
    yield from ((each, cores) for each in streams)
    if cores > 2:
        yield from ((each, cores // 2) for each in streams if each <= cores // 2)


def choose(configs: Sequence[TunedConfig]) -> TunedConfig:
    """The config with the lowest latency among those with nearly the highest rate."""
    fastest = max(config.rate for config in configs)
    near = [config for config in configs if config.rate >= MIN_RATE_SHARE * fastest]
    return min(near, key=lambda config: (config.latency, config.batch))


def measure(
    bundle: Bundle,
    modality: Modality,
    settings: Settings,
    rows: Sequence[Row],
    seconds: float,
    compiler: Compiler,
    clock: Callable[[], float],
) -> list[TunedConfig]:
    """Measure every candidate for one tower; each gets its share of the time left.

    Returns an empty list if the time runs out first.
    """
    configs: list[TunedConfig] = []
    pairs, end = list(candidates(len(os.sched_getaffinity(0)))), clock() + seconds
    limit = settings.image_batch if modality == "image" else max(BATCHES[modality])
    batches = [batch for batch in BATCHES[modality] if batch <= limit] or [limit]
    for number, (streams, threads) in enumerate(pairs):
        config = TunedConfig(streams, threads, batches[0], 0.0, 0.0)
        placed = dataclasses.replace(config.applied(settings), model_cache=False)
        graph = compiler(bundle, modality, placed)
        graph(rows[:1])  # the first call is slower
        each = (end - clock()) / (len(pairs) - number) / (len(batches) + 1)
        latency = 1 / measure_rate(graph, rows[:1], 1, each, clock)
        for batch in batches:
            items = list(islice(cycle(rows), batch))
            rate = measure_rate(graph, items, graph.parallel, each, clock)
            configs.append(dataclasses.replace(config, batch=batch, rate=rate, latency=latency))
            if clock() >= end and len(configs) < len(pairs) * len(batches):
                graph.close()
                log.info(
                    "%s: not tuned: time for only %d of %d configs", modality, number, len(pairs)
                )
                return []
        graph.close()
    return configs


def sample_rows(bundle: Bundle, modality: Modality) -> list[Row]:
    """Input rows for a tower: captions, or noise, which costs a graph as much as photos."""
    transform = dict(bundle.manifest.towers[modality].transform)
    if modality == "text":
        read = TextTransform(bundle.tokenizer or "", transform)
        return [features.row for features in read.prepare_many(CAPTIONS)]
    size = transform["size"]
    return list(np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8))


def measure_rate(
    run: Callable[[Sequence[T]], object],
    items: Sequence[T],
    callers: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Items per second of `callers` threads; each finishes at least one call with all items."""
    started = clock()
    calls = [0] * callers

    def call(place: int) -> None:
        while not calls[place] or clock() < started + seconds:
            run(items)
            calls[place] += 1

    threads = [threading.Thread(target=call, args=(place,)) for place in range(1, callers)]
    for thread in threads:
        thread.start()
    call(0)
    for thread in threads:
        thread.join()
    return sum(calls) * len(items) / max(clock() - started, 1e-9)


def _place(bundle: Bundle, settings: Settings) -> Path:
    """The file for this model, device, processor and OpenVINO version."""
    try:
        processor = ov.Core().get_property(settings.device, "FULL_DEVICE_NAME")
    except RuntimeError:  # virtual devices have no name
        processor = ""
    cores = len(os.sched_getaffinity(0))
    facts: Iterable[Any] = (
        VERSION, bundle.manifest.fingerprint, settings.device, settings.precision, processor, cores,
        ov.get_version(), *(["quantized"] if group_size(settings) else []),
    )  # fmt: skip
    mark = hashlib.sha256(json.dumps(list(facts)).encode()).hexdigest()[:16]
    graph = bundle.graph(next(iter(bundle.manifest.towers)))
    return cache_folder(graph, settings) / f"{FILES}{mark}.json"


def _save(bundle: Bundle, settings: Settings, configs: dict[Modality, TunedConfig]) -> None:
    """Save the configs; if that fails, the plugin's defaults are used."""
    place = _place(bundle, settings)
    towers = {modality: dataclasses.asdict(config) for modality, config in configs.items()}
    content = {"model": bundle.manifest.model, "towers": towers}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_suffix(f".{os.getpid()}")
        partial.write_text(seal_json(content), "utf-8")
        partial.replace(place)
    except OSError as error:
        log.warning("could not save the tuning results: %s", error.strerror)
