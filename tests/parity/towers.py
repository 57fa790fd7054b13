"""A checkpoint, written in a real file layout, through this package's own readers to vectors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.backends.openvino import compile_graph
from multimodal_embedding_serving.checkpoints import read_weights
from multimodal_embedding_serving.checkpoints.configs import DEFAULTS
from multimodal_embedding_serving.conversion.build import STORAGES
from multimodal_embedding_serving.families import Checkpoint, TowerSpec, find_family
from multimodal_embedding_serving.families.recognition import recognize_checkpoint
from multimodal_embedding_serving.graph.openvino_ops import emit_model
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Graph, Modality, Row, Vectors
from tests.checkpoints.files import write_pickle, write_safetensors
from tests.parity.small import Arrays

Graphs = Mapping[Modality, Graph]
EXACT = Settings(precision="f32", model_cache=False)
ROUNDED = Settings(precision="bf16", use_openvino=False, num_threads=1)
"""On torch, which rounds to bfloat16 on every CPU; OpenVINO does where the CPU can."""


@dataclass(frozen=True)
class Towers:
    """An opened checkpoint and the plans of its towers."""

    family: str
    checkpoint: Checkpoint
    plans: Sequence[TowerSpec]

    def plan(self, modality: Modality) -> TowerSpec:
        return next(plan for plan in self.plans if plan.modality == modality)

    def compile(self, folder: Path, precision: str = "f32") -> Graphs:
        """Both graphs, saved in `precision`, read back and run in float32; bf16: run in that."""
        return {
            plan.modality: compile_plan(plan, folder / f"{plan.modality}-{precision}.xml")
            for plan in self.plans
        }


def compile_plan(plan: TowerSpec, path: Path) -> Graph:
    """`path` ends in -<precision>.xml."""
    precision = path.stem.partition("-")[2]
    if precision == "bf16":
        from multimodal_embedding_serving.backends.torch import build_torch_graph

        return build_torch_graph(plan, ROUNDED)
    model = emit_model(plan.inputs, plan.build, STORAGES[precision])
    ov.save_model(model, path, compress_to_fp16=False)
    return compile_graph(path, EXACT, pad_id=plan.transform.get("pad_id", 0))


def read_towers(paths: Sequence[Path], config: Mapping[str, Any] | None) -> Towers:
    family, checkpoint = recognize_checkpoint(read_weights(paths), config, None)
    return Towers(family, checkpoint, find_family(family).plan(checkpoint))


def strip(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json as the hub has it: what equals the class default is left out."""
    kept = dict(config)
    for section, defaults in DEFAULTS[config["model_type"]].items():
        kept[section] = {
            key: value for key, value in config[section].items() if defaults.get(key) != value
        }
    return json.loads(json.dumps(kept))  # type: ignore[no-any-return]


def write_checkpoint(path: Path, arrays: Arrays) -> list[Path]:
    """The arrays in the format that the file's name asks for; an index writes two shards."""
    if path.name.endswith(".index.json"):
        return _write_shards(path, arrays)
    if path.suffix == ".safetensors":
        return [write_safetensors(path, arrays, {"format": "pt"})]
    wrap: Callable[[dict[str, Any]], object] = dict
    if path.suffix == ".pt":  # as a training run saves it
        wrap = lambda state: {  # noqa: E731
            "epoch": 3,
            "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        }
    return [write_pickle(path, arrays, wrap)]


def _write_shards(index: Path, arrays: Arrays) -> list[Path]:
    names, half = list(arrays), len(arrays) // 2
    table: dict[str, str] = {}
    for number, part in enumerate((names[:half], names[half:]), 1):
        shard = index.with_name(f"model-0000{number}-of-00002.safetensors")
        write_safetensors(shard, {name: arrays[name] for name in part})
        table |= dict.fromkeys(part, shard.name)
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return [index]


def cosine(found: Vectors, expected: NDArray[Any]) -> float:
    """The least cosine of rows, `found` being unit vectors."""
    exact = expected.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    return float((found * exact).sum(axis=1).min())


def alone_and_together(graph: Graph, rows: Sequence[Row], order: Sequence[int]) -> float:
    """The least cosine of a row's vector alone to its vector in the batch of all, reordered.

    The property that every tower of every family has: neighbours change nothing.
    """
    together = graph([rows[index] for index in order])
    alone = np.concatenate([graph([rows[index]]) for index in order])
    return cosine(together, alone)
