"""Every setting with a wrong value: an error before the server listens, which names the setting.

The checks that need a process (addresses, ports, certificates) are in
tests/cli/test_startup_errors.py; this is what precedes them, for each row of the table in
docs/configuration.md.
"""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.engine.preflight import check_startup
from multimodal_embedding_serving.errors import EmbeddingError, SettingsError
from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.settings import SECRETS, Settings
from multimodal_embedding_serving.types import Progress

ROOT = Path(__file__).parent.parent
CLIP = "CLIP/clip-vit-b-32"
INTEGER = ["x", "1.5", "1e3", "-5", "٣", "0x10", "9" * 40, "nan"]
SECONDS = ["x", "-5", "inf", "nan", "1e3", "9" * 17]
FLAG = ["maybe", "2", "truee"]
FILE = str(Path(__file__))
WRONG: dict[str, list[str]] = {
    "EMBEDDING_MODEL_NAME": ["no-such-model", "/no/such/folder", "hf:org", "hf:", "x" * 5000,
                             "../x", "hf:org/name@", "hf:a/b/c", FILE],
    "EMBEDDING_DEVICE": ["TPU", "GPU.77", "AUTO:", "cuda", "CPU,GPU", "cuda:x"],
    "EMBEDDING_OV_MODELS_DIR": ["~no-such-user/x", FILE],
    "EMBEDDING_SEARCH_DIR": ["~no-such-user/x"],
    "EMBEDDING_OV_CACHE_DIR": ["~no-such-user/x", FILE, "/proc/cache"],
    "EMBEDDING_VERIFY": ["yes"],
    "EMBEDDING_PRECISION": ["fp8", "int8,f16"],
    "EMBEDDING_DYNAMIC_QUANTIZATION": ["yes"],
    "EMBEDDING_CALIBRATION_DIR": ["/no/such/folder", FILE, "x" * 5000],
    "EMBEDDING_TOKEN_IDS": ["accept"],
    "OV_PERFORMANCE_MODE": ["fast"],
    "EMBEDDING_MEDIA_FETCH": ["all"],
    "EMBEDDING_MEDIA_ALLOWED_HOSTS": ["http://minio:9000", "*", "10.0.0.0/99", "a b", "host:99999"],
    "EMBEDDING_MEDIA_ROOTS": [FILE, "~no-such-user/x"],
    "EMBEDDING_API_KEYS": ["a secret", "secret-ключ"],
    "EMBEDDING_MEDIA_PROXY": ["socks5://secret:1", "secret:1", "http://secret:x"],
    "EMBEDDING_IMAGE_FORMATS": ["PDF", "JPEG,EPS", ","],
    "EMBEDDING_JPEG_DECODE": ["slow"],
    "EMBEDDING_CORS_ORIGINS": ["example.com", "https://a/b"],
    "EMBEDDING_ALLOWED_HOSTS": ["http://x/", "a b", "x/y", "host:port"],
    "EMBEDDING_ACCEPT_KEYS": ["rope_scaling", "config.json:", ":key", "config.json:a b"],
    "EMBEDDING_LOG_FORMAT": ["xml"],
    "EMBEDDING_LOG_LEVEL": ["trace"],
    "EMBEDDING_DIALECTS": ["immich,inmich", "openai", "none,tei"],
    "EMBEDDING_IMMICH_UPSTREAM": ["immich:3003", "ftp://x", "http://", "http:// x"],
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ["localhost:4318", "ftp://x", "http://", "http:// x"],
}  # fmt: skip
FREE = {"EMBEDDING_MODEL_ALIASES", "APP_NAME", "APP_DISPLAY_NAME", "APP_DESC"}
"""Any text is right."""
LISTENED_ON = {"EMBEDDING_HOST"}
"""Only the system knows; tests/cli/test_startup_errors.py."""
ONLY_NUMBERS, ONLY_FLAGS = re.compile(r"a (whole number|number of seconds), "), "true, false"


def allowed() -> dict[str, str]:
    """Variable -> what docs/configuration.md allows, for the first name of each row."""
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)`.*?\|.*?\| (.*?) \|.*\|$", page, re.MULTILINE)
    return {name: text.strip() for name, text in rows}


def cases() -> list[tuple[str, str]]:
    result = []
    for name, text in allowed().items():
        values = WRONG.get(name, [])
        if ONLY_NUMBERS.match(text):
            values = SECONDS if "seconds" in text else INTEGER
        elif text == ONLY_FLAGS:
            values = FLAG
        result += [(name, value) for value in values]
    return result


@pytest.mark.parametrize(("name", "value"), cases(), ids=lambda each: each[:40])
def test_a_wrong_value_is_an_error_before_listening(name: str, value: str) -> None:
    with pytest.raises(EmbeddingError) as raised:
        check_startup(Settings.from_env({"EMBEDDING_MODEL_NAME": "Builtin/mini", name: value}))
    message = raised.value.message
    shown = name == "EMBEDDING_MODEL_NAME" and value[:20] in message
    shown |= len(value) == 5000 and "File name too long" in message
    assert name in message or shown
    assert message.isprintable()
    assert name not in SECRETS or "secret" not in message


def test_every_setting_of_the_page_has_a_wrong_value_or_can_have_none() -> None:
    documented = allowed()
    assert documented.keys() == {each.metadata["names"][0] for each in fields(Settings)}
    tried = {name for name, _ in cases()}
    assert tried | FREE | LISTENED_ON == documented.keys()
    assert not tried & (FREE | LISTENED_ON)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"EMBEDDING_USE_OV": "false", "EMBEDDING_DEVICE": "cuda:77"}, "EMBEDDING_DEVICE"),
        ({"EMBEDDING_USE_OV": "false", "EMBEDDING_DEVICE": "GPU"}, "EMBEDDING_DEVICE"),
        ({"EMBEDDING_USE_OV": "false", "EMBEDDING_PRECISION": "int4-weights"}, "PRECISION"),
        (
            {"EMBEDDING_DYNAMIC_QUANTIZATION": "on", "EMBEDDING_PRECISION": "f32"},
            "EMBEDDING_DYNAMIC_QUANTIZATION",
        ),
        (
            {"EMBEDDING_OV_CACHE_DIR": "/tmp/a", "OV_CACHE_DIR": "/tmp/b"},
            "two names of one setting",
        ),
        (
            {"EMBEDDING_MODEL_NAME": CLIP, "EMBEDDING_OV_MODELS_DIR": "/proc/models"},
            "EMBEDDING_OV_MODELS_DIR",
        ),
        (
            {"EMBEDDING_MODEL_NAME": CLIP, "EMBEDDING_OV_MODELS_DIR": FILE},
            "EMBEDDING_OV_MODELS_DIR",
        ),
    ],
    ids=str,
)
def test_wrong_combinations_are_errors_before_listening(
    environ: dict[str, str], words: str
) -> None:
    with pytest.raises(EmbeddingError, match=words):
        check_startup(Settings.from_env(environ))


def test_the_port_waits_for_the_checks(tmp_path: Path) -> None:
    """`serve` listens after `checked` is set, and then sees the failure."""

    def factory(settings: Settings, progress: Progress, metrics: Metrics) -> None:
        raise AssertionError("it was opened all the same")

    def fail(settings: Settings) -> None:
        raise SettingsError("wrong")

    service = Service(Settings(models_dir=tmp_path))
    service.open_in_background(factory, fail)  # type: ignore[arg-type]
    service.checked.wait()
    assert service.failure == "wrong"
