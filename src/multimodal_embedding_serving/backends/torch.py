"""A tower's graph on torch, on CPU or CUDA, built from a checkpoint without conversion.

Importing this module without the extra `torch` raises MissingExtra.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from multimodal_embedding_serving.backends.openvino import collate
from multimodal_embedding_serving.errors import MissingExtra, SettingsError
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Row, Vectors

try:
    import torch

    from multimodal_embedding_serving.graph.torch_ops import Program, note_program
except ImportError as error:
    raise MissingExtra("EMBEDDING_USE_OV=false (the torch backend)", "torch") from error

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
CUDA_CALLS = 2
"""Concurrent calls on CUDA: one is collated and copied while another computes."""


class TorchGraph:
    """A tower on one device. On CPU one call at a time uses all of torch's threads."""

    def __init__(
        self, plan: TowerSpec, program: Program, device: torch.device, precision: str
    ) -> None:
        self.dimension = plan.dimension
        self.parallel = CUDA_CALLS if device.type == "cuda" else 1
        self.precision = precision
        self._program: Program | None = program
        self._names = list(plan.inputs)
        self._pad_id = int(plan.transform.get("pad_id", 0))
        self._device = device

    def __call__(self, rows: Sequence[Row]) -> Vectors:
        program = self._program
        if program is None:
            raise RuntimeError("the graph is closed")
        batch = collate(rows, self._names, self._pad_id)
        with torch.inference_mode():
            inputs = {
                name: send(torch.from_numpy(array), self._device) for name, array in batch.items()
            }
            vectors: Vectors = program(inputs).cpu().numpy()
        return np.ascontiguousarray(vectors)

    def close(self) -> None:
        """Release the weights."""
        self._program = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def build_torch_graph(plan: TowerSpec, settings: Settings) -> TorchGraph:
    """Build a tower on the device that the settings name.

    Raises SettingsError with the available devices or the supported precisions.
    """
    device = choose_device(settings.device)
    precision = choose_precision(settings)
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    if precision == "f32":  # exact float32: TF32 keeps 10 bits of each mantissa
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    program = note_program(list(plan.inputs), plan.build, device, DTYPES[precision])
    return TorchGraph(plan, program, device, precision)


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy to the device; to CUDA from pinned memory, so that it overlaps with the other call."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def choose_device(name: str) -> torch.device:
    """`CPU`, `cuda` or `cuda:n` -> torch's device. Raises SettingsError if unavailable."""
    known = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    device = "cuda:0" if name.lower() == "cuda" else name.lower()
    if device not in known:
        raise SettingsError(
            f"EMBEDDING_DEVICE={name!r} is not available to the torch backend; "
            f"available devices: {', '.join(known)}"
        )
    return torch.device(device)


def choose_precision(settings: Settings) -> str:
    """The inference precision; `auto` is float32 on CPU and bfloat16 (or float16) on CUDA.

    Raises SettingsError with the available devices or the supported precisions.
    """
    device, name = choose_device(settings.device), settings.precision
    if name == "auto":
        if device.type == "cpu":
            return "f32"
        return "bf16" if torch.cuda.is_bf16_supported() else "f16"
    if name not in DTYPES:
        raise SettingsError(
            f"EMBEDDING_PRECISION={name!r} requires OpenVINO (EMBEDDING_USE_OV=true); "
            f"the torch backend supports auto, {', '.join(DTYPES)}"
        )
    return name
