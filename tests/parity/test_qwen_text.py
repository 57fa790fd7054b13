"""QwenText against transformers' Qwen3Model in float32, on small random sharded checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from multimodal_embedding_serving.backends.openvino import compile_graph
from multimodal_embedding_serving.backends.static import StaticShape
from multimodal_embedding_serving.checkpoints import read_weights
from multimodal_embedding_serving.checkpoints.layouts import detect
from multimodal_embedding_serving.checkpoints.qwen_config import LAYOUTS, QWEN3
from multimodal_embedding_serving.errors import CheckpointError
from multimodal_embedding_serving.families import TowerSpec
from multimodal_embedding_serving.families.qwen_text import plan, read_qwen
from multimodal_embedding_serving.graph.openvino_ops import FLOAT32, emit_model
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.types import Graph, Row, Vectors
from tests.lazy import lazy
from tests.parity.conftest import Note
from tests.parity.oracles import oracle_name
from tests.parity.small import Arrays, small_arrays
from tests.parity.towers import EXACT, alone_and_together, compile_plan, cosine, write_checkpoint

torch = lazy("torch")
transformers = lazy("transformers")
safetensors = lazy("safetensors.torch")

BOUNDS = {"f32": 0.99999, "f16": 0.9999, "int8-weights": 0.99}
ROWS_OF_THE_CATALOG = ("qwen3-embedding-0.6b", "qwen3-embedding-4b", "qwen3-embedding-8b")
INDEX = "model.safetensors.index.json"
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,  # 4 x 32 is not the hidden size, as in the 0.6B model
    "num_key_value_heads": 2,
    "head_dim": 32,
}


def write_random(folder: Path, **changes: Any) -> Path:
    """Random bfloat16 weights in shards with their index; norms that matter."""
    torch.manual_seed(3)
    model = transformers.Qwen3Model(
        transformers.Qwen3Config(**{**SIZES, "rope_theta": 1e6, **changes})
    )
    with torch.no_grad():
        for weight in model.parameters():
            spread = 0.3 if weight.ndim == 1 else 1.5 * weight.shape[1] ** -0.5
            weight.copy_(torch.randn_like(weight) * spread + (1 if weight.ndim == 1 else 0))
    model.bfloat16().save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def plan_text(folder: Path, config: Mapping[str, Any] | None = None) -> TowerSpec:
    weights = read_weights([folder / INDEX])
    layout = detect(weights, LAYOUTS)
    assert layout is not None
    return plan(read_qwen(weights, layout, config or read_config(folder), None))[0]


def compile_model(folder: Path, config: Mapping[str, Any] | None = None) -> Graph:
    return compile_plan(plan_text(folder, config), folder / "text-f32.xml")


def ask_transformers(folder: Path, rows: Sequence[Row], **config: Any) -> Vectors:
    """Each row alone, so that no padding is in play; the last token, L2."""
    torch.set_num_threads(1)  # matrices this small only lose by more
    model = transformers.Qwen3Model.from_pretrained(folder, dtype=torch.float32, **config)
    with torch.inference_mode():
        last = [model(torch.tensor(row[None]).long()).last_hidden_state[0, -1] for row in rows]
    return np.asarray(torch.nn.functional.normalize(torch.stack(last), dim=1).numpy())


def texts(*lengths: int) -> list[Row]:
    rng = np.random.default_rng(11)
    return [rng.integers(0, SIZES["vocab_size"], length).astype(np.int32) for length in lengths]


ROWS = texts(17, 1, 9, 2, 70, 12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def expected(folder: Path) -> Vectors:
    return ask_transformers(folder, ROWS)


def small_row(model: str) -> tuple[Arrays, dict[str, Any]]:
    """A row of the catalog under its true names, bfloat16, and the config that fits."""
    arrays = small_arrays(model, "transformers")
    arrays["embed_tokens.weight"] = arrays["embed_tokens.weight"][: SIZES["vocab_size"]]
    config: dict[str, Any] = {
        "model_type": "qwen3",
        "vocab_size": len(arrays["embed_tokens.weight"]),
        "hidden_size": len(arrays["norm.weight"]),
        "intermediate_size": len(arrays["layers.0.mlp.gate_proj.weight"]),
        "num_hidden_layers": 2,
        "head_dim": len(arrays["layers.0.self_attn.q_norm.weight"]),
        "num_key_value_heads": 8,
        "rope_theta": 1000000,
    }
    heads = len(arrays["layers.0.self_attn.q_proj.weight"]) // config["head_dim"]
    if heads != 32:  # the default, which the real files leave out too
        config["num_attention_heads"] = heads
    return {name: to_bf16(array) for name, array in arrays.items()}, config


def to_bf16(array: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (array.view(np.uint32) >> 16).astype(np.uint16)


@pytest.mark.parametrize("model", ROWS_OF_THE_CATALOG)
def test_every_row_gives_the_vectors_of_transformers(
    model: str, tmp_path: Path, note: Note
) -> None:
    arrays, config = small_row(model)
    write_checkpoint(tmp_path / INDEX, arrays)
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = ask_transformers(tmp_path, ROWS)
    tower = plan_text(tmp_path)
    rounded = {"bf16": 0.999} if model == ROWS_OF_THE_CATALOG[0] else {}
    for precision, bound in (BOUNDS | rounded).items():
        graph = compile_plan(tower, tmp_path / f"text-{precision}.xml")
        least = cosine(graph(ROWS), expected)
        note(model, "transformers", oracle_name("bf16"), precision, least)
        assert least >= bound, precision


def test_four_bit_weights_give_finite_unit_vectors(folder: Path) -> None:
    found = compile_plan(plan_text(folder), folder / "text-int4-weights.xml")(ROWS)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_text_does_not_depend_on_its_batch_mates(folder: Path, expected: Vectors) -> None:
    """Pooling at index -1 would read the padding; the oracle saw each text alone."""
    graph = compile_model(folder)
    assert cosine(graph(ROWS), expected) >= 0.99999
    assert alone_and_together(graph, ROWS, range(len(ROWS) - 1, -1, -1)) >= 0.999999


def test_long_texts_give_the_vectors_of_transformers(folder: Path) -> None:
    """Lengths around the edges of the blocks that long texts are cut into, alone and as a batch."""
    rows = texts(1, 2, 127, 128, 129, 511, 512, 513, 639, 641, 2049, 1337)
    graph, expected = compile_model(folder), ask_transformers(folder, rows)
    alone = np.concatenate([graph([row]) for row in rows])
    assert cosine(alone, expected) >= 0.99999
    assert cosine(graph(rows), expected) >= 0.99999
    assert alone_and_together(graph, rows, range(len(rows) - 1, -1, -1)) >= 0.999999


@pytest.fixture(scope="module")
def bidirectional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random(tmp_path_factory.mktemp("bidirectional"), is_causal=False)


def test_a_bidirectional_model_gives_the_vectors_of_transformers(
    bidirectional: Path, folder: Path, note: Note
) -> None:
    """transformers reads `is_causal`; the edges are those of the blocks."""
    rows = texts(1, 2, 17, 127, 128, 129, 512, 513, 1337)
    expected = ask_transformers(bidirectional, rows)
    assert cosine(ask_transformers(folder, rows), expected) < 0.9  # the same weights, causal
    for precision, bound in BOUNDS.items():
        graph = compile_plan(plan_text(bidirectional), bidirectional / f"text-{precision}.xml")
        least = cosine(graph(rows), expected)
        note("Qwen3, bidirectional", "transformers", oracle_name("bf16"), precision, least)
        assert least >= bound, precision
    graph = compile_model(bidirectional)
    assert alone_and_together(graph, rows, range(len(rows) - 1, -1, -1)) >= 0.999999


def test_the_side_on_which_a_bidirectional_model_pads_makes_no_difference(
    bidirectional: Path,
) -> None:
    """As transformers computes a batch that is padded on the left, with its mask."""
    rows = texts(17, 5, 9)
    ids = np.stack([np.pad(row, (17 - len(row), 0), constant_values=7) for row in rows])
    seen = np.stack([np.arange(17) >= 17 - len(row) for row in rows]).astype(np.int64)
    model = transformers.Qwen3Model.from_pretrained(bidirectional, dtype=torch.float32)
    with torch.inference_mode():
        states = model(torch.tensor(ids).long(), attention_mask=torch.tensor(seen))
    assert cosine(compile_model(bidirectional)(rows), states.last_hidden_state[:, -1].numpy()) >= (
        0.99999
    )


def test_a_bidirectional_static_graph_gives_the_same_vectors(
    bidirectional: Path, tmp_path: Path
) -> None:
    """What an NPU is given is padded to its length, so that the mask matters for each text."""
    tower, path = plan_text(bidirectional), tmp_path / "text.xml"
    ov.save_model(emit_model(tower.inputs, tower.build, FLOAT32), path, compress_to_fp16=False)
    graph = compile_graph(path, EXACT, shape=StaticShape(128))
    assert cosine(graph(ROWS), ask_transformers(bidirectional, ROWS)) >= 0.99999


def test_a_projection_after_the_norm_is_that_of_voyage_4_nano(
    folder: Path, bidirectional: Path, tmp_path: Path
) -> None:
    """Its repository has code of its own: all tensors below `model.`, `linear` beside them, and
    `use_bidirectional_attention` where transformers reads `is_causal`."""
    whole: dict[str, Any] = {}
    for shard in folder.glob("*.safetensors"):
        whole |= {f"model.{name}": tensor for name, tensor in safetensors.load_file(shard).items()}
    torch.manual_seed(4)
    whole["linear.weight"] = torch.randn(96, SIZES["hidden_size"]).bfloat16()
    safetensors.save_file(whole, tmp_path / "model.safetensors")
    index = {"weight_map": dict.fromkeys(whole, "model.safetensors")}
    (tmp_path / INDEX).write_text(json.dumps(index))
    code = {"AutoModel": "modeling_qwen3_bidirectional.Qwen3BidirectionalModel"}
    own = {"use_bidirectional_attention": True, "num_labels": 96, "auto_map": code}
    config = {**read_config(folder), **own}
    states = torch.tensor(ask_transformers(bidirectional, ROWS))
    projected = (states @ whole["linear.weight"].float().T).numpy()
    assert plan_text(tmp_path, config).dimension == 96
    assert cosine(compile_model(tmp_path, config)(ROWS), projected) >= 0.99999
    with pytest.raises(CheckpointError, match=r"'linear\.weight' belongs to a bidirectional"):
        plan_text(tmp_path, read_config(folder))


def test_pooling_at_the_last_place_would_be_seen(folder: Path, expected: Vectors) -> None:
    """That the test above has teeth: with all places marked real, short texts come out wrong."""
    longest = max(len(row) for row in ROWS)
    padded = [np.pad(row, (0, longest - len(row)), constant_values=299) for row in ROWS]
    assert cosine(compile_model(folder)(padded), expected) < 0.9


@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": 10000.0, "rms_norm_eps": 0.01},
        {"num_key_value_heads": 4, "attention_bias": True},
        {"num_key_value_heads": 1, "hidden_act": "gelu"},
    ],
    ids=str,
)
def test_each_number_of_the_config_is_heeded(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_random(tmp_path, **change)
    assert cosine(compile_model(folder)(ROWS), ask_transformers(folder, ROWS)) >= 0.99999


def test_the_rotary_base_is_found_in_old_and_new_configs(folder: Path, expected: Vectors) -> None:
    config = read_config(folder)
    nested = config.pop("rope_parameters")
    old = {**config, "rope_theta": 1e6, "rope_scaling": None}
    for form in ({**config, "rope_parameters": nested}, old):
        assert cosine(compile_model(folder, form)(ROWS), expected) >= 0.99999


def test_a_stripped_config_means_the_library_s_defaults(tmp_path: Path) -> None:
    sizes = {"hidden_size": 96, "vocab_size": 200, "intermediate_size": 64, "num_hidden_layers": 2}
    stripped = {**sizes, "num_attention_heads": 2, "num_key_value_heads": 1}
    folder = write_random(tmp_path, **stripped, head_dim=128, rope_theta=10000.0)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", **stripped}))
    rows = [row % 200 for row in ROWS]
    assert cosine(compile_model(folder)(rows), ask_transformers(folder, rows)) >= 0.99999


def test_our_defaults_are_those_of_transformers() -> None:
    theirs = transformers.Qwen3Config().to_dict()
    theirs["rope_theta"] = theirs["rope_parameters"]["rope_theta"]
    assert {name: theirs[name] for name in QWEN3} == dict(QWEN3)


def test_the_language_model_s_names_are_accepted_and_its_head_ignored(
    folder: Path, tmp_path: Path, expected: Vectors
) -> None:
    whole: dict[str, Any] = {}
    for shard in folder.glob("*.safetensors"):
        whole |= {f"model.{name}": tensor for name, tensor in safetensors.load_file(shard).items()}
    whole["lm_head.weight"] = whole["model.embed_tokens.weight"].clone()
    safetensors.save_file(whole, tmp_path / "model.safetensors")
    index = {"weight_map": dict.fromkeys(whole, "model.safetensors")}
    (tmp_path / INDEX).write_text(json.dumps(index))
    graph = compile_model(tmp_path, read_config(folder))
    assert cosine(graph(ROWS), expected) >= 0.99999


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type 'yarn'"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"is_causal": "no"}, "is_causal = 'no' is not supported"),
        ({"is_causal": True, "use_bidirectional_attention": True}, "contradict each other"),
        ({"architectures": ["Qwen3BidirectionalModel"]}, "architectures .* set is_causal to false"),
        ({"auto_map": {"AutoModel": "own.Pruned"}}, "auto_map = .* code of the repository"),
        ({"num_hidden_layers": 2}, "3 layers, but config.json says 2"),
        ({"head_dim": 64}, "q_proj.weight' has shape 128x64, expected 256x64"),
        ({"num_key_value_heads": 3}, "4 heads can't share 3"),
        ({"hidden_size": 48}, "embed_tokens.weight' has shape 300x64, expected anyx48"),
    ],
    ids=str,
)
def test_a_config_that_means_another_model_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        plan_text(folder, {**read_config(folder), **change})


def test_a_static_graph_gives_the_same_vectors(
    folder: Path, tmp_path: Path, expected: Vectors
) -> None:
    """What an NPU needs: batch 1 and one length, compiled here by the CPU plugin."""
    tower, path = plan_text(folder), tmp_path / "text.xml"
    ov.save_model(emit_model(tower.inputs, tower.build, FLOAT32), path, compress_to_fp16=False)
    graph = compile_graph(path, EXACT, shape=StaticShape(128))
    assert cosine(graph(ROWS), expected) >= 0.99999
