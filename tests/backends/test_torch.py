"""The torch backend: the families' vectors as OpenVINO gives them, on whatever device there is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from multimodal_embedding_serving.checkpoints import read_weights
from multimodal_embedding_serving.errors import SettingsError
from multimodal_embedding_serving.families import TowerSpec, find_family
from multimodal_embedding_serving.families.recognition import recognize_checkpoint
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Row
from tests.lazy import has_cuda, lazy
from tests.parity.small import pictures, small_arrays, small_config, texts
from tests.parity.small_mobileclip import (
    side_of,
    small_mobileclip,
    small_pictures,
    small_texts,
)
from tests.parity.towers import alone_and_together, compile_plan, cosine, strip, write_checkpoint
from tests.small_model import SIDE, small_plans

if TYPE_CHECKING:
    from multimodal_embedding_serving.backends import torch as backend
else:
    backend = lazy("multimodal_embedding_serving.backends.torch")
torch = lazy("torch")

DEVICES = ["cpu", *(["cuda"] if has_cuda() else [])]
BOUNDS = {"f32": 0.99999, "f16": 0.9999, "bf16": 0.999}
QWEN = "qwen3-embedding-0.6b"
MODELS = (
    "clip-vit-b-16",
    "cn-clip-vit-b-16",
    "siglip2-vit-b-16",
    "blip2_transformers",
    "mobileclip_s0",
    "mobileclip_b",
    QWEN,
)


def settings(**changes: Any) -> Settings:
    chosen = {"use_openvino": False, "precision": "f32", "device": "cpu", "num_threads": 1}
    return Settings(**{**chosen, **changes})


def open_small(model: str, folder: Path) -> Sequence[tuple[TowerSpec, Sequence[Row]]]:
    """The towers of a small checkpoint, with rows for each."""
    rows: Mapping[str, Sequence[Row]]
    config: dict[str, Any] | None = None
    if model.startswith("mobileclip"):
        arrays = small_mobileclip(model, "apple")
        rows = {"image": small_pictures(model), "text": small_texts()}
    elif model == QWEN:
        arrays, config = small_qwen()
        rng = np.random.default_rng(5)
        rows = {"text": [rng.integers(0, 300, size).astype(np.int32) for size in (17, 1, 40)]}
    else:
        layers = 3 if model.startswith("blip2") else 2
        arrays = small_arrays(model, "transformers", layers=layers)
        config = strip(small_config(model, layers=layers))
        rows = {"image": pictures(model, 3), "text": texts(model, 3, 30, 52)}
    paths = write_checkpoint(folder / "model.safetensors", arrays)
    family, checkpoint = recognize_checkpoint(read_weights(paths), config, None)
    if family == "MobileCLIP":
        checkpoint = replace(checkpoint, config={**checkpoint.config, "side": side_of(model)})
    return [(plan, pad(plan, rows[plan.modality])) for plan in find_family(family).plan(checkpoint)]


def pad(plan: TowerSpec, rows: Sequence[Row]) -> Sequence[Row]:
    """Rows as the text transform gives them: of one length where that is fixed."""
    if not plan.transform.get("fixed_length"):
        return rows
    length, pad_id = plan.transform["max_length"], plan.transform["pad_id"]
    return [np.pad(row, (0, length - len(row)), constant_values=pad_id) for row in rows]


def small_qwen() -> tuple[dict[str, Any], dict[str, Any]]:
    arrays = small_arrays(QWEN, "transformers")
    arrays["embed_tokens.weight"] = arrays["embed_tokens.weight"][:300]
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 16}
    return arrays, {"model_type": "qwen3", "rope_theta": 1e6, **sizes, **heads}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", MODELS)
def test_vectors_are_those_of_openvino(model: str, device: str, tmp_path: Path) -> None:
    for plan, rows in open_small(model, tmp_path):
        expected = compile_plan(plan, tmp_path / f"{plan.modality}-f32.xml")(rows)
        for precision, bound in BOUNDS.items():
            graph = backend.build_torch_graph(plan, settings(device=device, precision=precision))
            found = graph(rows)
            assert found.dtype == np.float32
            assert graph.precision == precision
            assert graph.dimension == found.shape[1]
            assert cosine(found, expected) >= bound, (plan.modality, precision)
        exact = backend.build_torch_graph(plan, settings(device=device))
        backwards = range(len(rows) - 1, -1, -1)
        assert alone_and_together(exact, rows, backwards) >= 0.999999


@pytest.fixture(scope="module")
def image() -> TowerSpec:
    return next(plan for plan in small_plans() if plan.modality == "image")


def draw_pictures(count: int) -> list[Row]:
    rng = np.random.default_rng(7)
    return list(rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8))


def test_calls_from_many_threads_each_get_their_own_answer(image: TowerSpec) -> None:
    graph = backend.build_torch_graph(image, settings())
    rows = draw_pictures(24)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: graph([row])[0], rows))
    assert np.allclose(np.stack(found), graph(rows), atol=1e-6)


def test_an_answer_is_not_overwritten_by_the_next_call(image: TowerSpec) -> None:
    graph = backend.build_torch_graph(image, settings())
    first, second = draw_pictures(2)
    kept = graph([first])
    copy = kept.copy()
    graph([second])
    assert np.array_equal(kept, copy)
    assert kept.flags.writeable


def test_a_closed_graph_holds_no_weights_and_says_so(image: TowerSpec) -> None:
    graph = backend.build_torch_graph(image, settings())
    graph.close()
    graph.close()
    with pytest.raises(RuntimeError, match="closed"):
        graph(draw_pictures(1))


@pytest.mark.parametrize("device", ["GPU", "NPU", "AUTO:GPU,CPU", "cuda:99"])
def test_a_device_that_torch_has_not_is_refused(image: TowerSpec, device: str) -> None:
    with pytest.raises(SettingsError, match=rf"EMBEDDING_DEVICE='{device}'.*devices: cpu"):
        backend.build_torch_graph(image, settings(device=device))


@pytest.mark.parametrize("precision", ["int8-weights", "int4-weights", "int8"])
def test_integer_weights_are_openvino_s(image: TowerSpec, precision: str) -> None:
    with pytest.raises(SettingsError, match=r"requires OpenVINO .*auto, f32, bf16, f16"):
        backend.build_torch_graph(image, settings(precision=precision))


def test_cpu_computes_in_float32_unless_told(image: TowerSpec) -> None:
    assert (
        backend.build_torch_graph(image, settings(precision="auto", device="CPU")).precision
        == "f32"
    )


@pytest.mark.parametrize(("has_bf16", "precision"), [(True, "bf16"), (False, "f16")])
def test_cuda_computes_in_sixteen_bits_unless_told(
    has_bf16: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer: Callable[[], bool] = lambda: has_bf16  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", answer)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device in ("cuda", "cuda:0"):
        assert backend.choose_precision(settings(device=device, precision="auto")) == precision
        assert backend.choose_precision(settings(device=device, precision="f32")) == "f32"


@dataclass
class Sent:
    """Stands for a tensor: it remembers how it was sent."""

    how: list[str] = field(default_factory=list)

    def pin_memory(self) -> Sent:
        self.how.append("pinned")
        return self

    def to(self, device: object, *, non_blocking: bool = False) -> Sent:
        self.how.append(f"{device}, {'beside' if non_blocking else 'and waited'}")
        return self


@pytest.mark.parametrize(
    ("device", "how"), [("cpu", ["cpu, and waited"]), ("cuda:1", ["pinned", "cuda:1, beside"])]
)
def test_inputs_go_to_cuda_from_pinned_memory_beside_what_computes(
    device: str, how: list[str]
) -> None:
    tensor = Sent()
    backend.send(tensor, torch.device(device))
    assert tensor.how == how


def test_float32_is_not_rounded_to_tf32(image: TowerSpec) -> None:
    libraries: list[Any] = [torch.backends.cudnn, torch.backends.cuda.matmul]
    for library in libraries:
        library.allow_tf32 = True
    try:
        backend.build_torch_graph(image, settings(precision="f32"))
        assert not any(library.allow_tf32 for library in libraries)
    finally:
        for library in libraries:
            library.allow_tf32 = False


def test_the_number_of_threads_is_the_setting_s(image: TowerSpec) -> None:
    for count in (2, 1):
        backend.build_torch_graph(image, settings(num_threads=count))
        assert torch.get_num_threads() == count


def test_without_torch_the_extra_is_named() -> None:
    code = """
import sys
sys.modules["torch"] = None
from multimodal_embedding_serving.errors import MissingExtra
try:
    import multimodal_embedding_serving.backends.torch
except MissingExtra as error:
    print(error.status, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("501 ")
    assert "pip install 'multimodal-embedding-serving[torch]'" in done.stdout
