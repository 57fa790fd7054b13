"""QwenText's plan, what the CPU plugin makes of its graph, and what a conversion costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from multimodal_embedding_serving.catalog import resolve
from multimodal_embedding_serving.checkpoints import read_weights
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import TowerSpec, find_family
from multimodal_embedding_serving.families.recognition import recognize_checkpoint
from multimodal_embedding_serving.graph.blocks import QUERY_BLOCKS, TOKEN_BLOCKS
from multimodal_embedding_serving.graph.openvino_ops import (
    FLOAT32,
    INT8_WEIGHTS,
    Storage,
    emit_model,
)
from multimodal_embedding_serving.graph.runtime import ov
from tests.checkpoints.files import write_safetensors

LAYERS = 2
CONFIG = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "rope_theta": 1000000,
}


def shapes(width: int, inner: int, layers: int, entries: int) -> dict[str, tuple[int, ...]]:
    """A decoder with two query heads to one key, of 128 each."""
    found: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (entries, width)}
    for layer in range(layers):
        block = {
            "self_attn.q_proj": (256, width),
            "self_attn.k_proj": (128, width),
            "self_attn.v_proj": (128, width),
            "self_attn.o_proj": (width, 256),
            "self_attn.q_norm": (128,),
            "self_attn.k_norm": (128,),
            "mlp.gate_proj": (inner, width),
            "mlp.up_proj": (inner, width),
            "mlp.down_proj": (width, inner),
            "input_layernorm": (width,),
            "post_attention_layernorm": (width,),
        }
        found |= {f"layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    return found | {"norm.weight": (width,)}


def write_model(folder: Path, width: int, inner: int, layers: int, entries: int) -> list[Path]:
    """bfloat16 shards of one layer each, with their index; no two values of a tensor alike."""
    rng = np.random.default_rng(5)
    table: dict[str, str] = {}
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes(width, inner, layers, entries).items():
        part = name.split(".")[1] if name.startswith("layers.") else "rest"
        parts.setdefault(part, {})[name] = shape
    for part, members in parts.items():
        shard = folder / f"model-{part}.safetensors"
        # 0x3c00 to 0x3dff in bfloat16: 0.008 to 0.12
        numbers = {
            name: rng.integers(0x3C00, 0x3DFF, shape, dtype=np.uint16)
            for name, shape in members.items()
        }
        write_safetensors(shard, numbers)
        table |= dict.fromkeys(members, shard.name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    return [index]


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> TowerSpec:
    paths = write_model(tmp_path_factory.mktemp("qwen"), 64, 96, LAYERS, 500)
    family, checkpoint = recognize_checkpoint(read_weights(paths), CONFIG, None)
    assert family == "QwenText"
    return find_family(family).plan(checkpoint)[0]


def layer_types(tower: TowerSpec, storage: Storage) -> Counter[str]:
    """What the CPU plugin makes of the graph: its own layer types, fused ones included."""
    model = emit_model(tower.inputs, tower.build, storage)
    compiled = ov.Core().compile_model(model, "CPU", {})
    operations = compiled.get_runtime_model().get_ops()
    return Counter(each.get_rt_info()["layerType"].astype(str) for each in operations)


@pytest.mark.parametrize("storage", [FLOAT32, INT8_WEIGHTS], ids=["f32", "int8-weights"])
def test_the_plugin_fuses_norms_and_rotations(tower: TowerSpec, storage: Storage) -> None:
    found = layer_types(tower, storage)
    assert found["RMS"] == 4 * LAYERS + 1
    assert found["RoPE"] == 2 * LAYERS
    attention, mlp = 4, 3 * TOKEN_BLOCKS[0]
    assert found["FullyConnected"] == (attention + mlp) * LAYERS + 1  # one for the angles, shared
    assert found["Subgraph"] == QUERY_BLOCKS[0] * LAYERS
    assert not found["MatMul"]
    assert not found["Softmax"]


def test_queries_are_wrapped_and_documents_are_not(tmp_path: Path) -> None:
    weights = read_weights(write_model(tmp_path, 64, 96, LAYERS, 500))
    _, checkpoint = recognize_checkpoint(weights, CONFIG, resolve("qwen3-embedding-0.6b"))
    (tower,) = find_family("QwenText").plan(checkpoint)
    prompts, task = tower.transform["prompts"], tower.transform["default_instruction"]
    wrapped = prompts["query"].format(instruction=task, text="what is rain?")
    assert wrapped == (
        "Instruct: Given a web search query, retrieve relevant passages that answer the query\n"
        "Query:what is rain?"
    )
    assert prompts["document"].format(text="Rain is water.") == "Rain is water."


def test_a_checkpoint_outside_the_catalog_has_no_prompts_but_its_own(tower: TowerSpec) -> None:
    assert tower.transform["prompts"] == {}
    assert tower.transform["default_instruction"] is None


def test_the_padding_is_a_token_of_the_model(tower: TowerSpec) -> None:
    assert tower.transform["pad_id"] == 499  # 151643 is beyond so small a vocabulary
    assert tower.transform["eos_kept"]
    assert tower.transform["max_length"] == 32768


def test_a_checkpoint_without_a_config_is_refused(tmp_path: Path) -> None:
    weights = read_weights(write_model(tmp_path, 64, 96, 1, 50))
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        recognize_checkpoint(weights, None, resolve("qwen3-embedding-0.6b"))


# Anonymous memory: pages of the mapped shards that the kernel has not yet written count as private
# and dirty too, though they are no cost of the conversion.
CONVERT = """
import json, sys, threading
from pathlib import Path
from multimodal_embedding_serving.checkpoints import read_weights
from multimodal_embedding_serving.conversion.blueprint import Blueprint
from multimodal_embedding_serving.conversion.build import Conversion, build_bundle
from multimodal_embedding_serving.families import find_family
from multimodal_embedding_serving.families.recognition import recognize_checkpoint

def private():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

def watch():
    while not done.wait(0.01):
        peaks.append(private())

done, peaks, before = threading.Event(), [], private()
watcher = threading.Thread(target=watch)
watcher.start()
folder = Path(sys.argv[1])
weights = read_weights([folder / "model.safetensors.index.json"])
widened = [each.float32() for each in weights.values()] if "whole" in sys.argv else []
family, checkpoint = recognize_checkpoint(weights, json.loads(sys.argv[2]), None)
blueprint = Blueprint(model="m", family=family, plans=find_family(family).plan(checkpoint))
bundle = build_bundle(Conversion(blueprint, "int8-weights"), folder / "bundle")
done.set()
watcher.join()
size = sum(path.stat().st_size for path in bundle.path.iterdir())
print(json.dumps({"peak": max(peaks) - before, "size": size}))
"""


def test_converting_takes_less_than_twice_the_result_of_private_memory(tmp_path: Path) -> None:
    """Streamed from bfloat16 shards: no float32 copy of the model, no second integer one."""
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 6}
    write_model(tmp_path, 1024, 4096, 6, 16384)
    command = [sys.executable, "-c", CONVERT, str(tmp_path), json.dumps({**CONFIG, **sizes})]
    # Where the whole checkpoint is widened first, it shows: the measure has teeth.
    streamed, widened = (measure([*command, *extra]) for extra in ([], ["whole"]))
    assert streamed["size"] > 90 << 20
    assert streamed["peak"] < 2 * streamed["size"]
    assert widened["peak"] > 4 * widened["size"]


def measure(command: list[str]) -> dict[str, int]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found
