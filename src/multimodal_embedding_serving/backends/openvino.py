"""A tower's graph on any OpenVINO device: compiled once, called from many threads."""

from __future__ import annotations

import hashlib
import json
import logging
import queue
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_embedding_serving.backends.blobs import BLOBS, checked_blobs
from multimodal_embedding_serving.backends.quantization import QUANTIZATION_GROUP, group_size
from multimodal_embedding_serving.backends.static import StaticShape
from multimodal_embedding_serving.bundles.checksums import checksum
from multimodal_embedding_serving.errors import BundleError, SettingsError
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Row, Vectors

log = logging.getLogger(__name__)

VIRTUAL = re.compile("(AUTO|MULTI|HETERO|BATCH)(:|$)")
"""Virtual devices: they accept any option and pass each device those that it supports."""

PRECISION, DEVICES = "INFERENCE_PRECISION_HINT", "DEVICE_PROPERTIES"
NPU_PRECISION = "f16"
"""An NPU's inference precision (OpenVINO's "NPU Device"); its graphs do not report it."""
PRECISION_HINTS = {"f32": "f32", "bf16": "bf16", "f16": "f16"}


class OpenVINOGraph:
    """A compiled graph with one infer request for each concurrent call."""

    def __init__(
        self, compiled: ov.CompiledModel, pad_id: int, shape: StaticShape | None = None
    ) -> None:
        self.dimension = int(compiled.output(0).get_partial_shape()[1].get_length())
        self.parallel = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.precision = inference_precision(compiled)
        self._pad_id, self._shape = pad_id, shape
        self._names = [port.get_any_name() for port in compiled.inputs]
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.parallel):
            self._requests.put(compiled.create_infer_request())

    def __call__(self, rows: Sequence[Row]) -> Vectors:
        if self._shape is None:
            return self._run(collate(rows, self._names, self._pad_id))
        length = self._shape.length
        return np.concatenate(
            [self._run(collate([row], self._names, self._pad_id, length)) for row in rows]
        )

    def _run(self, inputs: Mapping[str, Row]) -> Vectors:
        request = self._requests.get()
        try:
            for name, array in inputs.items():
                request.set_tensor(name, ov.Tensor(array, shared_memory=True))
            # infer() would run in the calling thread and leave a stream in its thread-local
            # storage; when that thread ends after the graph was closed, OpenVINO 2026.4 locks a
            # mutex that is gone. On the graph's own threads it is also faster.
            request.start_async()
            request.wait()
            vectors: Vectors = request.get_output_tensor(0).data.copy()
        finally:
            self._requests.put(request)
        return vectors

    def close(self) -> None:
        """Release the infer requests, and with them the device's memory."""
        while not self._requests.empty():
            self._requests.get()


def collate(
    rows: Sequence[Row], names: Sequence[str], pad_id: int, length: int | None = None
) -> dict[str, Row]:
    """Rows as one batch by input name: images stacked, ids padded on the right to `length`.

    None: to the longest.
    """
    if rows[0].ndim > 1:
        return {names[0]: np.stack(rows)}
    longest = length or max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_id, np.int32)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    batch = {"input_ids": ids}
    if "attention_mask" in names:
        lengths = np.array([len(row) for row in rows])
        batch["attention_mask"] = (np.arange(longest) < lengths[:, None]).astype(np.int32)
    return batch


def inference_precision(compiled: ov.CompiledModel) -> str:
    """A compiled graph's inference precision; "f16+f32" where two devices differ."""
    try:  # BATCH reports its device's value, but does not list the property
        return str(compiled.get_property(PRECISION).to_string())
    except RuntimeError:
        properties = compiled.get_property("SUPPORTED_PROPERTIES")
    # AUTO, HETERO and MULTI report it for each of their devices, an NPU not at all.
    devices = compiled.get_property(DEVICES).values() if DEVICES in properties else [{}]
    precisions = {
        each[PRECISION].to_string() if PRECISION in each else NPU_PRECISION for each in devices
    }
    return "+".join(sorted(map(str, precisions)))


def compile_graph(
    path: Path,
    settings: Settings,
    *,
    pad_id: int = 0,
    shape: StaticShape | None = None,
    identity: str = "",
) -> OpenVINOGraph:
    """Compile a graph file for the device that the settings name, in `shape` if that is static.

    `identity` is a hash of what the graph computes; its compiled blobs are found by it. Raises
    SettingsError with the available devices where the device is not one of them, BundleError where
    OpenVINO cannot read the graph.
    """
    core = ov.Core()
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise BundleError(f"OpenVINO cannot read {path.name}: it is damaged") from error
    if shape is not None:
        shape.fix(model)
    options = compile_options(settings)
    try:
        if not VIRTUAL.match(settings.device):
            options = supported_options(
                options, core.get_property(settings.device, "SUPPORTED_PROPERTIES")
            )
        with _blobs(path, settings, (identity or checksum(path), shape)) as cache:
            compiled = core.compile_model(model, settings.device, {**options, **cache})
    except RuntimeError as error:
        if settings.device.upper() in core.available_devices:
            raise
        raise SettingsError(unavailable(settings.device, core)) from error
    return OpenVINOGraph(compiled, pad_id, shape)


@contextmanager
def _blobs(path: Path, settings: Settings, graph: object) -> Iterator[Mapping[str, str]]:
    """The option with the folder of this graph's compiled blobs, after those were checked.

    The blobs name the options with which they were compiled; OpenVINO replaces one that has others.
    """
    if not settings.model_cache:
        yield {}
        return
    facts = (str(graph), settings.device, ov.get_version())
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    folder = cache_folder(path, settings) / f"{BLOBS}{name}"
    with checked_blobs(folder, check=settings.verify != "off") as usable:
        yield {"CACHE_DIR": str(folder)} if usable else {}


def lists_group(device: str) -> bool:
    """Whether a device can set its dynamic quantization; virtual devices pass the property on.

    Raises SettingsError where the device is not available.
    """
    if VIRTUAL.match(device):
        return True
    core = ov.Core()
    kinds = {each.partition(".")[0] for each in core.available_devices}
    if device.upper().partition(".")[0] not in kinds:  # some plugins answer without a device
        raise SettingsError(unavailable(device, core))
    try:
        return QUANTIZATION_GROUP in core.get_property(device, "SUPPORTED_PROPERTIES")
    except RuntimeError as error:
        if device.upper() in core.available_devices:
            raise
        raise SettingsError(unavailable(device, core)) from error


def unavailable(device: str, core: ov.Core) -> str:
    """The message for a device that this machine does not have."""
    devices = ", ".join(core.available_devices)
    return f"EMBEDDING_DEVICE={device!r} is not available; available devices: {devices}"


def supported_options(options: Mapping[str, Any], supported: Collection[str]) -> dict[str, Any]:
    """The options that a device supports; it rejects all others (an NPU has no threads)."""
    ignored = sorted(options.keys() - set(supported))
    # The notices of the model report a device without that property.
    if unmet := [name for name in ignored if name != QUANTIZATION_GROUP]:
        log.warning("ignoring settings this device does not support: %s", ", ".join(unmet))
    return {name: value for name, value in options.items() if name not in ignored}


def cache_folder(path: Path, settings: Settings) -> Path:
    """The folder of what is compiled and measured: beside the bundle, if that is in the models
    folder."""
    model_dir, ours = path.parent.parent, settings.models_dir
    return (
        settings.cache_dir or (model_dir if model_dir.is_relative_to(ours) else ours) / "compiled"
    )


def compile_options(settings: Settings) -> dict[str, Any]:
    """OpenVINO properties from the settings; `auto` leaves a property to the plugin."""
    options: dict[str, Any] = {QUANTIZATION_GROUP: group_size(settings)}
    hint = "LATENCY" if settings.performance_mode == "auto" else settings.performance_mode
    options["PERFORMANCE_HINT"] = hint
    if settings.precision in PRECISION_HINTS:
        options[PRECISION] = PRECISION_HINTS[settings.precision]
    streams = settings.num_streams
    if hint == "LATENCY" and settings.device.upper() == "CPU":
        streams = streams or 1  # the plugin might take one per socket, and INT8 weights allow one
    numbers = {
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": settings.num_threads,
        "PERFORMANCE_HINT_NUM_REQUESTS": settings.num_requests,
    }
    return options | {name: value for name, value in numbers.items() if value}
