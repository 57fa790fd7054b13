"""Which arithmetic serves a model: what is tried, what is chosen, what is kept, what is reported.

The figures are given by hand where they decide, so that the CPU's instruction sets do not.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from multimodal_embedding_serving.backends import compile_tower
from multimodal_embedding_serving.backends.quantization import list_instructions, multiplies_int8
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.catalog import DEFAULT_MODEL
from multimodal_embedding_serving.conversion import convert, serving_form
from multimodal_embedding_serving.conversion.build import build_bundle
from multimodal_embedding_serving.conversion.parity import (
    ParityFailed,
    check_bundle,
    check_parity,
    judge,
    least_batch_bound,
)
from multimodal_embedding_serving.conversion.probes import Probes, probes_of, upgrade
from multimodal_embedding_serving.conversion.serving_form import (
    Step,
    choose_form,
    find_notices,
    list_forms,
)
from multimodal_embedding_serving.conversion.store import describe, load_bundle
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import BundleError, SettingsError
from multimodal_embedding_serving.settings import Settings
from tests.small_clip import write_clip
from tests.small_model import small_conversion, small_plans

GOLDEN = Path(__file__).parent.parent / "golden" / "bundles" / "format1"
Check = Callable[..., Mapping[str, Any]]


@pytest.fixture
def vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_form, "multiplies_int8", lambda: True)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """INT8 weights, with probes."""
    return upgrade(Bundle.load(Path(shutil.copytree(GOLDEN, tmp_path / "models" / "small"))))


def settings(tmp_path: Path, **changes: Any) -> Settings:
    return Settings(models_dir=tmp_path / "models", **changes)


def passing(*accepted: tuple[str, str]) -> Check:
    """A check that only these (precision, dynamic quantization) pass."""

    def check(bundle: Bundle, probes: object, applied: Settings) -> Mapping[str, Any]:
        form = (applied.precision, applied.dynamic_quantization)
        if form not in accepted:
            raise ParityFailed(f"cosine of {form[0]} {form[1]} is low; use a higher one")
        return {"text": {"minimum": 1.0}}

    return check


FAST, DEFAULT = ("auto", "on"), ("auto", "off")
FAST_F32, F32 = ("f32", "on"), ("f32", "off")


@pytest.mark.parametrize(
    ("changes", "stored", "forms"),
    [
        ({}, "int8-weights", [FAST, DEFAULT, FAST_F32, F32]),
        ({}, "int4-weights", [FAST, DEFAULT, FAST_F32, F32]),
        ({}, "f16", [DEFAULT, F32]),
        ({"dynamic_quantization": "off"}, "int8-weights", [DEFAULT, F32]),
        ({"dynamic_quantization": "on"}, "int8-weights", [FAST]),
        ({"dynamic_quantization": "on"}, "f16", [DEFAULT, F32]),
        ({"precision": "f32"}, "int8-weights", [F32]),
        ({"precision": "bf16"}, "int8-weights", [("bf16", "on"), ("bf16", "off")]),
        ({"precision": "bf16"}, "f16", [("bf16", "off")]),
        ({"device": "AUTO"}, "int8-weights", [DEFAULT, F32]),
    ],
)
def test_the_forms_of_a_setting_are_tried_from_fast_to_exact(
    changes: dict[str, Any], stored: str, forms: list[tuple[str, str]], vnni: None
) -> None:
    steps = list_forms(stored, Settings(**changes))
    assert [(step.precision, step.dynamic_quantization) for step in steps] == forms


def test_without_int8_instructions_activations_are_not_quantized(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving_form, "multiplies_int8", lambda: False)
    steps = list_forms("int8-weights", Settings())
    assert {step.dynamic_quantization for step in steps} == {"off"}


@pytest.mark.parametrize(
    ("flags", "int8"),
    [("sse avx2", False), ("avx512f avx512_vnni", True), ("avx_vnni", True), ("amx_int8", True)],
)
def test_instruction_sets_are_read_from_linux(flags: str, int8: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags} ht\n")
    assert multiplies_int8(tmp_path / "cpuinfo") is int8
    assert set(list_instructions(tmp_path / "cpuinfo")) == set(flags.split()) - {"sse"}
    assert list_instructions(tmp_path / "none") == ()


def test_f32_forbids_quantized_activations() -> None:
    environ = {"EMBEDDING_DYNAMIC_QUANTIZATION": "on", "EMBEDDING_PRECISION": "f32"}
    with pytest.raises(SettingsError, match="EMBEDDING_DYNAMIC_QUANTIZATION='on' is not allowed"):
        Settings.from_env(environ)


@pytest.mark.parametrize("form", [FAST, DEFAULT, FAST_F32, F32])
def test_auto_serves_the_first_form_that_passes_and_says_why(
    form: tuple[str, str], bundle: Bundle, tmp_path: Path, vnni: None,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(serving_form, "check_bundle", passing(form))
    chosen = choose_form(bundle, settings(tmp_path))
    assert (chosen.settings.precision, chosen.settings.dynamic_quantization) == form
    failed = [FAST, DEFAULT, FAST_F32, F32].index(form)
    assert len(chosen.notices) == min(failed, 1)
    assert sum("is low; trying" in record.message for record in caplog.records) == failed
    if failed:
        assert chosen.notices[0].startswith("cosine of")
        assert describe(bundle, settings(tmp_path))["notices"] == list(chosen.notices)


def test_a_model_that_fails_in_f32_is_broken(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_form, "check_bundle", passing())
    with pytest.raises(ParityFailed, match="cosine of f32 off is low"):
        choose_form(bundle, settings(tmp_path))
    assert not list(tmp_path.rglob("accuracy-*"))


def test_a_precision_asked_for_by_name_is_refused_with_its_cosine(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_form, "check_bundle", passing(F32))
    with pytest.raises(ParityFailed, match="cosine of bf16 off is low"):
        choose_form(bundle, settings(tmp_path, precision="bf16"))


def test_the_choice_is_kept_and_not_measured_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_form, "check_bundle", passing(F32))
    first = choose_form(bundle, settings(tmp_path))
    monkeypatch.setattr(serving_form, "check_bundle", passing())  # it would fail
    assert choose_form(bundle, settings(tmp_path)) == first
    assert find_notices(bundle, settings(tmp_path)) == first.notices
    (file,) = tmp_path.rglob("accuracy-*.json")
    content = json.loads(file.read_text())
    assert content["steps"][-1]["precision"] == "f32"
    for broken in ("[", "{}", json.dumps({"steps": []}), json.dumps({"steps": [{"x": 1}]})):
        file.write_text(broken)
        with pytest.raises(ParityFailed):
            choose_form(bundle, settings(tmp_path))


@pytest.mark.parametrize(
    "change", [{"precision": "int8-weights"}, {"dynamic_quantization": "off"}, {"device": "AUTO"}]
)
def test_the_choice_holds_for_its_settings_and_processor_only(
    change: dict[str, Any], bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_form, "check_bundle", passing(F32))
    choose_form(bundle, settings(tmp_path))
    monkeypatch.setattr(serving_form, "check_bundle", passing())
    with pytest.raises(ParityFailed):
        choose_form(bundle, settings(tmp_path, **change))
    monkeypatch.setattr(serving_form, "list_instructions", lambda: ("avx9",))
    with pytest.raises(ParityFailed):
        choose_form(bundle, settings(tmp_path))


def test_a_device_without_the_property_and_weights_without_integers_are_named(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    floats = build_bundle(small_conversion(), tmp_path / "models" / "f16")
    (notice,) = choose_form(floats, settings(tmp_path, dynamic_quantization="on")).notices
    assert "on has no effect: weights are f16" in notice
    monkeypatch.setattr(serving_form, "lists_group", lambda device: False)
    chosen = choose_form(bundle, settings(tmp_path, dynamic_quantization="on"))
    assert chosen.settings.dynamic_quantization == "off"
    assert "CPU has no DYNAMIC_QUANTIZATION_GROUP_SIZE" in chosen.notices[-1]


# ── a conversion ──
@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("checkpoints") / "tiny-clip")


def test_weights_that_f16_cannot_hold_are_stored_as_f32(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[tuple[str, str]] = []
    original = check_parity

    def check(plans: Any, bundle: Bundle, applied: Settings, **rest: Any) -> dict[str, Any]:
        measured.append((bundle.manifest.precision, applied.precision))
        figures = original(plans, bundle, applied, **rest)
        if bundle.manifest.precision == "f16":
            raise ParityFailed("cosine 0.5 is low; use a higher EMBEDDING_PRECISION")
        return figures

    monkeypatch.setattr(serving_form, "check_parity", check)
    chosen = settings(tmp_path, model=str(checkpoint), dynamic_quantization="off")
    bundle = load_bundle(chosen)
    assert measured[:3] == [("f16", "auto"), ("f16", "f32"), ("f32", "auto")]
    assert (bundle.manifest.precision, bundle.path.name) == ("f32", "f32")
    assert bundle.manifest.notice == "serving f32 instead of f16: cosine 0.5 is low"
    assert load_bundle(chosen) == bundle
    with Engine.open(settings=chosen) as engine:
        assert engine.info.precision == "f32"
        assert engine.info.notices[0] == bundle.manifest.notice
    with pytest.raises(BundleError, match=r"cosine 0\.5 is low"):
        load_bundle(dataclasses.replace(chosen, precision="f16"))


def test_the_ladder_starts_at_the_models_own_precision() -> None:
    blueprint = small_conversion().blueprint
    coarse = dataclasses.replace(blueprint, default_precision="int8-weights")
    assert convert.list_storages(coarse, Settings()) == ["int8-weights", "f16", "f32"]
    assert convert.list_storages(blueprint, Settings()) == ["f16", "f32"]
    assert convert.list_storages(coarse, Settings(precision="bf16")) == ["int8-weights"]
    assert convert.list_storages(coarse, Settings(precision="f16")) == ["f16"]


# ── what is measured ──
def test_an_item_alone_is_compared_with_itself_in_a_batch(tmp_path: Path) -> None:
    bundle = build_bundle(small_conversion(), tmp_path / "small")
    exact = Settings(precision="f32", model_cache=False)
    probes: dict[Any, Probes] = {}
    parity = check_parity(small_plans(), bundle, exact, probes=probes)
    for each in parity.values():
        assert each["batch_bound"] == 0.99999 <= each["batch_minimum"]
    again = check_bundle(bundle, probes, exact)
    assert again == parity
    vectors = probes["text"].vectors
    with pytest.raises(ParityFailed, match=r"cosine 0\.998000 between an item alone and in a ba"):
        judge("text", bundle.manifest, vectors, vectors, "f32", batch=0.998, group=32)
    figures = judge("text", bundle.manifest, vectors, vectors, "f32", batch=0.9992, group=32)
    assert figures["batch_bound"] == least_batch_bound("bf16", 32) == 0.999
    assert least_batch_bound("bf16", 0) == least_batch_bound("f16", 0) == 0.9999


@pytest.mark.parametrize(("form", "suffix"), [("on", "-dq32"), ("off", "")])
def test_the_fingerprint_names_quantized_activations(
    form: str, suffix: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = passing(("int8-weights", "on"), ("int8-weights", "off"))
    monkeypatch.setattr(serving_form, "check_bundle", passed)
    chosen = settings(
        tmp_path, model=str(bundle.path), precision="int8-weights", dynamic_quantization=form
    )
    with Engine.open(settings=chosen) as engine:
        info = engine.info
    assert info.dynamic_quantization_group_size == (32 if suffix else 0)
    assert info.fingerprint == f"{bundle.manifest.fingerprint}-{info.inference}{suffix}"


def test_a_step_is_applied_to_settings() -> None:
    applied = Step("f32", "off").apply(Settings(num_threads=3))
    assert (applied.precision, applied.dynamic_quantization, applied.num_threads) == (
        "f32",
        "off",
        3,
    )


@pytest.mark.parametrize("form", ["on", "off"])
def test_the_shipped_model_meets_its_bounds_in_either_form(form: str, tmp_path: Path) -> None:
    """On every CPU: where a form misses its bounds, a finer one is served."""
    chosen = settings(tmp_path, model=DEFAULT_MODEL, dynamic_quantization=form, precision="auto")
    bundle = load_bundle(chosen)
    probes = {modality: probes_of(bundle, modality) for modality in bundle.manifest.towers}
    applied = dataclasses.replace(chosen, precision="f32", model_cache=False)
    for each in check_bundle(bundle, probes, applied).values():
        assert each["minimum"] >= 0.99
        assert each["batch_minimum"] >= each["batch_bound"]
    assert compile_tower(bundle, "text", applied).precision == "f32"
