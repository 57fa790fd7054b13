"""Every variable of the contract exists, has its default, and refuses what it does not know."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multimodal_embedding_serving.errors import SettingsError
from multimodal_embedding_serving.settings import (
    APPLICATIONS,
    IGNORED_VARIABLES,
    IMAGE_FORMATS,
    NEAR_MISSES,
    REPLACED_VARIABLES,
    Settings,
    find_unknown_variables,
    unset_empty_hub_variables,
)

# variable -> default, copied by hand from the contract's table.
DEFAULTS: dict[str, Any] = {
    "EMBEDDING_MODEL_NAME": "Builtin/mini",
    "EMBEDDING_DEVICE": "CPU",
    "EMBEDDING_USE_OV": True,
    "EMBEDDING_OV_MODELS_DIR": Path("~/.cache/mmes/models").expanduser(),
    "EMBEDDING_SEARCH_DIR": Path("~/.cache/mmes/search").expanduser(),
    "EMBEDDING_OV_CACHE_DIR": None,
    "OV_CACHE_DIR": None,
    "OV_ENABLE_MODEL_CACHE": True,
    "EMBEDDING_VERIFY": "full",
    "EMBEDDING_PRECISION": "auto",
    "EMBEDDING_DYNAMIC_QUANTIZATION": "auto",
    "EMBEDDING_HOST": "127.0.0.1",
    "EMBEDDING_SERVER_PORT": 9777,
    "EMBEDDING_MODEL_ALIASES": (),
    "EMBEDDING_TOKEN_IDS": "reject",
    "EMBEDDING_DIALECTS": ("immich", "weaviate", "ollama", "tei", "voyage", "llamacpp"),
    "EMBEDDING_IMMICH_UPSTREAM": "",
    "OV_PERFORMANCE_MODE": "auto",
    "OPENVINO_PERFORMANCE_MODE": "auto",
    "OV_NUM_STREAMS": 0,
    "OV_INFERENCE_NUM_THREADS": 0,
    "OV_PERFORMANCE_HINT_NUM_REQUESTS": 0,
    "PERFORMANCE_HINT_NUM_REQUESTS": 0,
    "INFER_BATCH_SIZE": 32,
    "PREPROCESS_WORKERS": 0,
    "DEFAULT_START_OFFSET_SEC": 0,
    "DEFAULT_CLIP_DURATION": -1,
    "DEFAULT_NUM_FRAMES": 64,
    "VIDEO_FRAME_BATCH_SIZE": 0,
    "VIDEO_FRAME_DECODER_WORKERS": 0,
    "VIDEO_FRAME_QUEUE_SIZE": 0,
    "EMBEDDING_STATIC_SEQ_LEN": 2048,
    "EMBEDDING_CHUNK_LONG_TEXT": True,
    "EMBEDDING_MAX_LENGTH": None,
    "EMBEDDING_ACCEPT_KEYS": (),
    "EMBEDDING_MEDIA_FETCH": "public",
    "EMBEDDING_MEDIA_ALLOWED_HOSTS": (),
    "EMBEDDING_MEDIA_ROOTS": (Path("/tmp/videoQnA"), Path("/tmp/dataprep")),
    "EMBEDDING_API_KEYS": (),
    "EMBEDDING_MEDIA_PROXY": "",
    "EMBEDDING_IMAGE_FORMATS": tuple(IMAGE_FORMATS),
    "EMBEDDING_JPEG_DECODE": "auto",
    "EMBEDDING_IMAGE_ISOLATION": False,
    "EMBEDDING_MAX_BODY_MB": 64,
    "EMBEDDING_MAX_IMAGE_MB": 32,
    "EMBEDDING_MAX_IMAGE_MPIX": 64,
    "EMBEDDING_MAX_VIDEO_MB": 512,
    "EMBEDDING_MAX_VIDEO_SECONDS": 14400,
    "EMBEDDING_MAX_FRAMES": 4096,
    "EMBEDDING_MAX_ITEMS": 2048,
    "EMBEDDING_MAX_TEXT_CHARS": 400000,
    "EMBEDDING_CALIBRATION_DIR": None,
    "EMBEDDING_CACHE_MB": 0,
    "EMBEDDING_INTERACTIVE_REPLICA_MAX_MB": 512,
    "EMBEDDING_EXPRESS_MB": 512,
    "EMBEDDING_MAX_PENDING_MB": 1024,
    "EMBEDDING_MAX_FETCHES": 64,
    "EMBEDDING_MAX_CONNECTIONS": 1024,
    "EMBEDDING_QUEUE_LIMIT": 8192,
    "EMBEDDING_REQUEST_TIMEOUT_SEC": 300,
    "EMBEDDING_HEADER_TIMEOUT_SEC": 20,
    "EMBEDDING_KEEPALIVE_SEC": 75,
    "EMBEDDING_DRAIN_SEC": 25,
    "EMBEDDING_CORS_ORIGINS": (),
    "EMBEDDING_ALLOWED_HOSTS": (),
    "EMBEDDING_LOG_FORMAT": "text",
    "EMBEDDING_LOG_LEVEL": "info",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "",
    "APP_NAME": "multimodal-embedding-serving",
    "APP_DISPLAY_NAME": "Multimodal Embedding Serving",
    "APP_DESC": "Text, images and video as vectors in one space.",
}
FIELDS = {name: each.name for each in fields(Settings) for name in each.metadata["names"]}
WHOLE = [n for n, v in DEFAULTS.items() if isinstance(v, int) and not isinstance(v, bool)]
NUMBERS = [name for name in WHOLE if FIELDS[name] not in {"start_offset", "clip_duration"}]
NUMBERS = [n for n in NUMBERS if not n.endswith("_SEC")]
SWITCHES = [name for name, value in DEFAULTS.items() if isinstance(value, bool)]
REFUSED = {
    "EMBEDDING_DEVICE": "TPU",
    "EMBEDDING_PRECISION": "fp8",
    "EMBEDDING_DYNAMIC_QUANTIZATION": "32",
    "EMBEDDING_TOKEN_IDS": "maybe",
    "EMBEDDING_MEDIA_FETCH": "all",
    "OV_PERFORMANCE_MODE": "FAST",
    "EMBEDDING_IMAGE_FORMATS": "JPEG,EPS",
    "EMBEDDING_REQUEST_TIMEOUT_SEC": "0",
    "EMBEDDING_DRAIN_SEC": "inf",
    "EMBEDDING_CORS_ORIGINS": "https://a.example/page",
    "EMBEDDING_LOG_FORMAT": "xml",
    "EMBEDDING_LOG_LEVEL": "loud",
    "DEFAULT_START_OFFSET_SEC": "-1",
    "DEFAULT_CLIP_DURATION": "nan",
    "EMBEDDING_SERVER_PORT": "65536",
    "EMBEDDING_MAX_LENGTH": "32769",
}
LISTED = {
    "EMBEDDING_PRECISION": "auto, f32, bf16, f16, int8-weights, int4-weights, int8",
    "EMBEDDING_TOKEN_IDS": "reject, model, cl100k",
    "EMBEDDING_MEDIA_FETCH": "off, public, allowlist",
    "OV_PERFORMANCE_MODE": "auto, LATENCY, THROUGHPUT, CUMULATIVE_THROUGHPUT",
    "EMBEDDING_USE_OV": "true, false",
    "EMBEDDING_IMAGE_FORMATS": ", ".join(IMAGE_FORMATS),
    "EMBEDDING_SERVER_PORT": "a whole number, 0 to 65535",
    "EMBEDDING_DRAIN_SEC": "a number of seconds, 0 to 604800",
    "OV_NUM_STREAMS": "a whole number, 1 to 1024, or auto",
    "EMBEDDING_DEVICE": "CPU, GPU, GPU.1, NPU, AUTO",
}


@pytest.mark.parametrize(
    ("value", "expected"),
    [("All", APPLICATIONS), ("none", []), ("ollama, TEI", ["ollama", "tei"])],
)
def test_applications_are_listed_or_all_or_none(value: str, expected: list[str]) -> None:
    assert list(Settings.from_env({"EMBEDDING_DIALECTS": value}).dialects) == expected
    with pytest.raises(SettingsError, match="all, none, or a list of immich, weaviate, ollama"):
        Settings.from_env({"EMBEDDING_DIALECTS": f"{value},lama"})


def test_the_fields_are_the_contracts_variables() -> None:
    assert set(FIELDS) == set(DEFAULTS)


@pytest.mark.parametrize("name", DEFAULTS)
def test_every_variable_has_its_default(name: str) -> None:
    assert getattr(Settings.from_env({}), FIELDS[name]) == DEFAULTS[name]
    assert getattr(Settings.from_env({name: "  "}), FIELDS[name]) == DEFAULTS[name]


@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_is_not_allowed_is_refused_by_name(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}=.*is not allowed; allowed: "):
        Settings.from_env({name: REFUSED[name]})


@pytest.mark.parametrize("name", LISTED)
def test_the_refusal_lists_what_is_allowed(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_env({name: "no such value"})
    assert LISTED[name] in caught.value.message


def test_a_secret_is_no_part_of_what_a_log_would_show() -> None:
    settings = Settings.from_env(
        {"EMBEDDING_API_KEYS": "s3cret", "EMBEDDING_MEDIA_PROXY": "http://u:s3cret@proxy"}
    )
    assert settings.api_keys == ("s3cret",)
    assert "s3cret" not in repr(settings)


def test_a_settings_object_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().model = "other"  # type: ignore[misc]


def test_an_override_wins_over_the_environment_and_none_does_not() -> None:
    environ = {"EMBEDDING_DEVICE": "GPU", "EMBEDDING_SERVER_PORT": "8000"}
    settings = Settings.from_env(environ, device="npu", port=None)
    assert (settings.device, settings.port) == ("NPU", 8000)


def test_an_override_is_checked_like_a_variable() -> None:
    with pytest.raises(SettingsError, match="precision='fp8'"):
        Settings.from_env({}, precision="fp8")


def test_two_names_of_one_setting_must_agree() -> None:
    both = {"OV_CACHE_DIR": "/a", "EMBEDDING_OV_CACHE_DIR": "/a"}
    assert Settings.from_env(both).cache_dir == Path("/a")
    with pytest.raises(SettingsError, match=r"EMBEDDING_OV_CACHE_DIR='/b' and OV_CACHE_DIR='/a'"):
        Settings.from_env({**both, "EMBEDDING_OV_CACHE_DIR": "/b"})


def test_the_variable_for_traces_wins_over_the_general_one() -> None:
    general = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}
    traces = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/v1/traces"}
    assert Settings.from_env({**general, **traces}).traces == "http://b/v1/traces"


def test_an_override_replaces_a_setting_under_any_of_its_names() -> None:
    base = {"EMBEDDING_INTERACTIVE_REPLICA_MAX_MB": "512", "EMBEDDING_DEVICE": "GPU"}
    merged = Settings.merge(base, {"EMBEDDING_EXPRESS_MB": "0"})
    assert merged == {"EMBEDDING_EXPRESS_MB": "0", "EMBEDDING_DEVICE": "GPU"}
    assert Settings.from_env(merged).interactive_replica_max_mb == 0
    assert Settings.from_env({"OV_CACHE_DIR": "/b"}).cache_dir == Path("/b")


def test_the_users_cache_folder_is_respected() -> None:
    settings = Settings.from_env({"XDG_CACHE_HOME": "/elsewhere"})
    assert settings.models_dir == Path("/elsewhere/mmes/models")
    named = Settings.from_env({"XDG_CACHE_HOME": "/e", "EMBEDDING_OV_MODELS_DIR": "/models"})
    assert named.models_dir == Path("/models")


def test_lists_are_split_and_trimmed() -> None:
    settings = Settings.from_env(
        {
            "EMBEDDING_MODEL_ALIASES": " a, b ,,c ",
            "EMBEDDING_MEDIA_ROOTS": "/one:/two",
            "EMBEDDING_IMAGE_FORMATS": "png, jpeg",
        }
    )
    assert settings.aliases == ("a", "b", "c")
    assert settings.media_roots == (Path("/one"), Path("/two"))
    assert settings.image_formats == ("PNG", "JPEG")


@pytest.mark.parametrize(
    ("raw", "device"),
    [
        ("cpu", "CPU"),
        ("GPU.1", "GPU.1"),
        ("gpu.0.1", "GPU.0.1"),
        ("NPU", "NPU"),
        ("AUTO", "AUTO"),
        ("AUTO:-NPU,CPU", "AUTO:-NPU,CPU"),
        ("AUTO:GPU,CPU", "AUTO:GPU,CPU"),
        ("HETERO:GPU,CPU", "HETERO:GPU,CPU"),
        ("MULTI:GPU(2),CPU", "MULTI:GPU(2),CPU"),
        ("BATCH:GPU(16)", "BATCH:GPU(16)"),
        ("cuda", "cuda"),
        ("CUDA:1", "cuda:1"),
    ],
)
def test_a_device_string_of_either_backend_is_taken(raw: str, device: str) -> None:
    assert Settings.from_env({"EMBEDDING_DEVICE": raw}).device == device


@pytest.mark.parametrize(
    "raw", ["GPU.", "CPU,GPU", "HETERO:", "AUTO:TPU", "cuda:x", "CPU;rm", "GPU.1\nCPU", "HETERO"]
)
def test_a_device_string_outside_the_grammar_is_refused(raw: str) -> None:
    with pytest.raises(SettingsError, match="EMBEDDING_DEVICE"):
        Settings.from_env({"EMBEDDING_DEVICE": raw})


@given(st.sampled_from(SWITCHES), st.sampled_from(["TRUE", "1", "yes", "On"]))
def test_every_switch_takes_the_usual_words(name: str, word: str) -> None:
    assert getattr(Settings.from_env({name: word}), FIELDS[name]) is True


@given(st.sampled_from(NUMBERS), st.integers(-(10**20), 10**20))
def test_a_whole_number_is_taken_as_it_is_or_refused_with_the_bounds(name: str, n: int) -> None:
    settings, refusal = read(name, str(n))
    if settings is None:
        assert "allowed: a whole number, " in refusal
    else:
        assert getattr(settings, FIELDS[name]) == n


@given(st.sampled_from(sorted(DEFAULTS)), st.text(max_size=300))
@example("EMBEDDING_MEDIA_ROOTS", "/tmp:~no-such-user")
@example("OV_CACHE_DIR", "~no-such-user/cache")
def test_no_value_ends_in_anything_but_settings_or_a_settings_error(name: str, raw: str) -> None:
    settings, refusal = read(name, raw)
    assert (settings is None) == bool(refusal)
    if refusal:
        assert refusal.startswith(f"{name}=")
        assert len(refusal) < 600


def read(name: str, raw: str) -> tuple[Settings | None, str]:
    """The settings that one variable makes, or the message of the refusal."""
    try:
        return Settings.from_env({name: raw}), ""
    except SettingsError as error:
        return None, error.message


@pytest.mark.parametrize("name", REPLACED_VARIABLES)
def test_an_old_name_of_the_model_is_refused_with_the_right_one(name: str) -> None:
    """Else another model than the one that is named would be served."""
    with pytest.raises(SettingsError, match=f"^{name}='a/b' .* set EMBEDDING_MODEL_NAME instead"):
        Settings.from_env({name: "a/b"})
    assert Settings.from_env({name: " "}).model == "Builtin/mini"
    environ = {name: "a/b", "EMBEDDING_MODEL_NAME": "CLIP/clip-vit-b-32"}
    assert Settings.from_env(environ).model == "CLIP/clip-vit-b-32"
    assert (
        Settings.from_env({name: "a/b"}, model="CLIP/clip-vit-b-32").model == "CLIP/clip-vit-b-32"
    )
    assert find_unknown_variables(environ) == [
        f"{name} is ignored: EMBEDDING_MODEL_NAME names the model"
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        *NEAR_MISSES.items(),
        ("EMBEDDING_MODEL_NAMES", "EMBEDDING_MODEL_NAME"),
        ("EMBEDDINGS_MODEL_NAME", None),
        ("EMBEDING_DEVICE", None),
        ("EMBEDDING_DEVISE", "EMBEDDING_DEVICE"),
        ("DEFAULT_NUM_FRAME", "DEFAULT_NUM_FRAMES"),
        ("VIDEO_FRAME_DECODER_WORKER", "VIDEO_FRAME_DECODER_WORKERS"),
        ("OV_PERFORMANCE_MODES", "OV_PERFORMANCE_MODE"),
    ],
)
def test_a_name_that_almost_is_a_setting_is_warned_of(name: str, meant: str | None) -> None:
    sentence = f"{name} is not a setting and has no effect; did you mean {meant}?"
    assert find_unknown_variables({name: "x"}) == ([sentence] if meant else [])


def test_other_names_of_this_service_are_warned_of_and_those_of_others_are_not() -> None:
    assert find_unknown_variables({"EMBEDDING_QUARTZ": "1"}) == [
        "EMBEDDING_QUARTZ is not a setting and has no effect"
    ]
    for name, reason in IGNORED_VARIABLES.items():
        assert find_unknown_variables({name: "1"}) == [f"{name} is ignored: {reason}"]
    # What Kubernetes sets for a service named `embedding`, OpenVINO's own, and empty ones.
    others = {
        "EMBEDDING_PORT": "tcp://10.0.0.1:8000",
        "EMBEDDING_SERVICE_HOST": "10.0.0.1",
        "EMBEDDING_SERVICE_PORT_HTTP": "8000",
        "EMBEDDING_PORT_8000_TCP_ADDR": "10.0.0.1",
        "OV_CPU_VERBOSE": "1",
        "APP_HOME": "/app",
        "EMBEDDING_MODEL": "",
    }
    assert find_unknown_variables(others | dict.fromkeys(DEFAULTS, "x")) == []


def test_empty_variables_of_the_hubs_client_are_removed_and_no_others() -> None:
    environ = {"HF_ENDPOINT": "", "HF_HOME": " ", "HF_TOKEN": "x", "HUGGINGFACE_HUB_CACHE": ""}
    environ |= {"XDG_CACHE_HOME": "", "HF_": "", "PATH": "", "EMBEDDING_DEVICE": ""}
    unset_empty_hub_variables(environ)
    assert set(environ) == {"HF_TOKEN", "HF_", "PATH", "EMBEDDING_DEVICE"}


@pytest.mark.parametrize(
    ("environ", "mode", "requests"),
    [
        ({"OPENVINO_PERFORMANCE_MODE": "latency"}, "LATENCY", 0),
        ({"OV_PERFORMANCE_MODE": "Cumulative"}, "CUMULATIVE_THROUGHPUT", 0),
        ({"PERFORMANCE_HINT_NUM_REQUESTS": "3"}, "auto", 3),
    ],
)
def test_other_spellings_of_intels_service_are_taken(
    environ: dict[str, str], mode: str, requests: int
) -> None:
    settings = Settings.from_env(environ)
    assert (settings.performance_mode, settings.num_requests) == (mode, requests)
