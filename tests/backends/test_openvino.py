"""A bundle's graphs on a real device: OpenVINO's CPU plugin."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.backends import compile_tower
from multimodal_embedding_serving.backends.openvino import (
    collate,
    compile_graph,
    compile_options,
    inference_precision,
    supported_options,
)
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.conversion.build import build_bundle
from multimodal_embedding_serving.errors import SettingsError
from multimodal_embedding_serving.graph.runtime import ov
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Row
from tests.small_model import SIDE, small_conversion


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(small_conversion(), tmp_path_factory.mktemp("models") / "small")


def settings(**changes: object) -> Settings:
    return Settings(model_cache=False, precision="f32", **changes)  # type: ignore[arg-type]


def images(count: int) -> list[Row]:
    rng = np.random.default_rng(7)
    return list(rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8))


def texts(*lengths: int) -> list[Row]:
    rng = np.random.default_rng(7)
    return [rng.integers(1, 32, length).astype(np.int32) for length in lengths]


def test_vectors_are_float32_rows_of_length_one(bundle: Bundle) -> None:
    vectors = compile_tower(bundle, "image", settings())(images(3))
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, 8)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_text_does_not_depend_on_how_long_its_neighbours_are(bundle: Bundle) -> None:
    graph = compile_tower(bundle, "text", settings())
    rows = texts(1, 5, 12)
    together = graph(rows)
    alone = np.concatenate([graph([row]) for row in rows])
    assert (together * alone).sum(axis=1).min() > 0.999999


def test_an_answer_is_not_overwritten_by_the_next_call(bundle: Bundle) -> None:
    graph = compile_tower(bundle, "image", settings())
    first, second = images(2)
    vectors = graph([first])
    copy = vectors.copy()
    graph([second])
    assert np.array_equal(vectors, copy)


def test_calls_from_many_threads_each_get_their_own_answer(bundle: Bundle) -> None:
    graph = compile_tower(bundle, "image", settings(performance_mode="THROUGHPUT"))
    rows = images(24)
    expected = graph(rows)
    with ThreadPoolExecutor(8) as pool:
        actual = list(pool.map(lambda row: graph([row])[0], rows))
    assert np.allclose(np.stack(actual), expected, atol=1e-6)


def test_stored_precision_stays_near_the_float32_graph(tmp_path: Path) -> None:
    bounds = {"f16": 0.9999, "int8-weights": 0.99}
    exact = build_bundle(small_conversion(precision="f32"), tmp_path / "f32")
    expected = compile_tower(exact, "image", settings())(images(8))
    for precision, bound in bounds.items():
        stored = build_bundle(small_conversion(precision=precision), tmp_path / precision)
        actual = compile_tower(stored, "image", settings())(images(8))
        assert (actual * expected).sum(axis=1).min() >= bound, precision


def test_the_effective_precision_is_reported(bundle: Bundle) -> None:
    assert compile_tower(bundle, "text", settings()).precision == "f32"


@pytest.mark.parametrize("device", ["AUTO", "AUTO:CPU", "HETERO:CPU", "MULTI:CPU", "BATCH:CPU(4)"])
def test_a_device_that_stands_for_others_gives_their_vectors(bundle: Bundle, device: str) -> None:
    """AUTO, HETERO and MULTI tell their precision in another way than a device does."""
    expected = compile_tower(bundle, "text", settings())(texts(3, 5))
    graph = compile_tower(bundle, "text", settings(device=device))
    assert graph.precision == "f32"
    assert np.allclose(graph(texts(3, 5)), expected, atol=1e-6)


class Compiled:
    """What a compiled graph says of itself, as OpenVINO's documentation has it for a device."""

    def __init__(self, **properties: object) -> None:
        self._properties = properties | {"SUPPORTED_PROPERTIES": dict.fromkeys(properties, "RO")}

    def get_property(self, name: str) -> Any:
        if name not in self._properties:
            raise RuntimeError(f"NotFound: {name}")
        return self._properties[name]


def test_an_npu_which_tells_no_precision_computes_in_f16() -> None:
    f32 = {"INFERENCE_PRECISION_HINT": ov.Type.f32}
    assert inference_precision(Compiled(PERFORMANCE_HINT="LATENCY")) == "f16"
    assert inference_precision(Compiled(DEVICE_PROPERTIES={"NPU": {}})) == "f16"
    assert inference_precision(Compiled(DEVICE_PROPERTIES={"NPU": {}, "CPU": f32})) == "f16+f32"
    assert inference_precision(Compiled(**f32)) == "f32"


def test_a_device_gets_only_the_options_that_it_supports(caplog: pytest.LogCaptureFixture) -> None:
    """An NPU rejects the number of threads, and with it the whole graph."""
    chosen = Settings(precision="f32", num_threads=2, performance_mode="THROUGHPUT")
    npu = ["PERFORMANCE_HINT", "PERFORMANCE_HINT_NUM_REQUESTS", "NUM_STREAMS"]
    assert supported_options(compile_options(chosen), npu).keys() == {"PERFORMANCE_HINT"}
    assert "INFERENCE_NUM_THREADS" in caplog.text
    assert "DYNAMIC_QUANTIZATION_GROUP_SIZE" not in caplog.text
    cpu = ov.Core().get_property("CPU", "SUPPORTED_PROPERTIES")
    assert supported_options(compile_options(chosen), cpu) == compile_options(chosen)


@pytest.mark.parametrize("device", ["CPU", "AUTO:CPU", "HETERO:CPU"])
@pytest.mark.parametrize(
    ("precision", "form", "group"), [("f32", "auto", 0), ("auto", "off", 0), ("auto", "on", 32)]
)
def test_dynamic_quantization_is_set_on_purpose(
    device: str, precision: str, form: str, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped model has INT8 weights: OpenVINO's default differs by the CPU's instructions."""
    options: list[dict[str, Any]] = []
    compiled: list[ov.CompiledModel] = []
    compile_model = ov.Core.compile_model

    def note(core: ov.Core, model: ov.Model, device: str, config: dict[str, Any]) -> Any:
        options.append(config)
        compiled.append(compile_model(core, model, device, config))
        return compiled[-1]

    monkeypatch.setattr(ov.Core, "compile_model", note)
    graph = files("multimodal_embedding_serving") / "builtin" / "mini" / "text.xml"
    chosen = Settings(
        device=device, precision=precision, dynamic_quantization=form, model_cache=False
    )
    compile_graph(Path(str(graph)), chosen)
    assert options[0]["DYNAMIC_QUANTIZATION_GROUP_SIZE"] == group
    if device == "CPU":  # AUTO and HETERO do not answer for the device below them
        assert compiled[0].get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == group


def test_an_unknown_device_is_refused_with_the_list_of_devices(bundle: Bundle) -> None:
    with pytest.raises(
        SettingsError, match=r"EMBEDDING_DEVICE='GPU.7' is not available; available devices: CPU"
    ):
        compile_tower(bundle, "text", settings(device="GPU.7"))


def test_ids_are_padded_on_the_right_and_masked() -> None:
    batch = collate(texts(2, 4), ["input_ids", "attention_mask"], 9)
    assert batch["input_ids"].dtype == np.int32
    assert batch["input_ids"][0, 2:].tolist() == [9, 9]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_openvino_options_follow_the_settings() -> None:
    chosen = Settings(
        performance_mode="THROUGHPUT", num_streams=2, num_threads=3, num_requests=4,
        precision="bf16",
    )  # fmt: skip
    assert compile_options(chosen) == {
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": "bf16",
        "NUM_STREAMS": 2,
        "INFERENCE_NUM_THREADS": 3,
        "PERFORMANCE_HINT_NUM_REQUESTS": 4,
    }
    assert compile_options(Settings(model_cache=False)) == {
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
