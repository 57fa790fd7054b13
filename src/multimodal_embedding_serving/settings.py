"""The environment as one frozen `Settings`: the only reader of environment variables.

Each setting is one field; its names, default, parser and meaning are its metadata, from which the table in the
docs is generated. An unknown value is refused at start with a message that lists the allowed ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from math import inf
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.errors import SettingsError

Parse = Callable[[str], Any]

# fmt: off
PRECISIONS = "auto f32 bf16 f16 int8-weights int4-weights int8".split()
PERFORMANCE_MODES = "auto LATENCY THROUGHPUT CUMULATIVE_THROUGHPUT".split()
IMAGE_FORMATS = "JPEG JPEG2000 PNG WEBP GIF BMP DIB TIFF ICO PPM TGA PCX SGI DDS QOI AVIF HEIF".split()
CACHES = {"models_dir": "models", "search_dir": "search"}
BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
_ONE_DEVICE = r"-?(CPU|GPU|NPU|TEMPLATE)(\.\d+)*(\(\d+\))?"
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?")
DEVICE = re.compile(rf"CUDA(:\d+)?|AUTO|{_ONE_DEVICE}|(AUTO|MULTI|HETERO|BATCH):{_ONE_DEVICE}(,{_ONE_DEVICE})*")
# fmt: on


def number(low: float, high: float = inf, word: str = "", *, unit: str = "") -> Parse:
    """Numbers in [low, high], whole ones unless a `unit` is named; `word` (such as auto) stands for 0."""
    digits = r"[+-]?[0-9]*\.?[0-9]{1,18}" if unit else r"[+-]?[0-9]{1,18}"
    kind = (f"a number of {unit}, " if unit else "a whole number, ") + f"{low:g}"

    def parse(raw: str) -> float | int:
        if word and raw.lower() == word:
            return 0
        if not re.fullmatch(digits, raw) or not low <= float(raw) <= high:
            bounds = f"{kind} or more" if high == inf else f"{kind} to {high:g}"
            raise ValueError(bounds + (f", or {word}" if word else ""))
        return float(raw) if unit else int(raw)

    return parse


def one_of(*allowed: str, meaning: Mapping[str, Any] | None = None) -> Parse:
    """One of the words, whatever its case -> that word, or what it means."""
    meanings = meaning or {word.lower(): word for word in allowed}

    def parse(raw: str) -> Any:
        if raw.lower() not in meanings:
            raise ValueError(", ".join(allowed))
        return meanings[raw.lower()]

    return parse


boolean = one_of("true", "false", meaning=BOOLEANS)


def words(raw: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in raw.split(",") if part.strip())


def some_of(*allowed: str) -> Parse:
    each = one_of(*allowed)
    return lambda raw: tuple(each(part) for part in words(raw))


def origins(raw: str) -> tuple[str, ...]:
    """Origins as a browser sends them (RFC 6454), or `*`."""
    found = words(raw)
    if not all(each == "*" or _ORIGIN.fullmatch(each) for each in found):
        raise ValueError("*, or a list of https://host[:port]")
    return found


def device_string(raw: str) -> str:
    """OpenVINO's grammar (GPU.1, AUTO:-NPU,CPU, BATCH:GPU(4)) or torch's cuda:n, each in its library's case."""
    if not DEVICE.fullmatch(raw.upper()):
        raise ValueError(
            "CPU, GPU, GPU.1, NPU, AUTO, AUTO:…, MULTI:…, HETERO:…, BATCH:…, cuda, cuda:0"
        )
    return raw.lower() if raw.lower().startswith("cuda") else raw.upper()


def folders(raw: str) -> tuple[Path, ...]:
    return tuple(folder(part) for part in raw.split(os.pathsep) if part)


def folder(raw: str) -> Path:
    try:
        return Path(raw).expanduser()
    except RuntimeError:  # ~name of no user here
        raise ValueError("a path; ~name for a user of this machine only") from None


def env(names: str, default: Any, parse: Parse, meaning: str) -> Any:
    """A field read from the first of `names` (space-separated) that is set and not empty."""
    shown = not names.endswith(("_KEYS", "_PROXY"))  # secrets stay out of a log of the settings
    facts = {"names": names.split(), "parse": parse, "meaning": meaning}
    return field(default=default, metadata=facts, repr=shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the service was told. Limits are in the unit that the field's name says."""

    # fmt: off
    model: str = env("EMBEDDING_MODEL_NAME", "Builtin/mini", str, "catalog id, alias, `hf:org/name`, or a folder")
    device: str = env("EMBEDDING_DEVICE", "CPU", device_string, "any OpenVINO device string, or cpu / cuda / cuda:n with the torch backend")
    use_openvino: bool = env("EMBEDDING_USE_OV", True, boolean, "false = the torch backend (extra `torch`)")
    models_dir: Path = env("EMBEDDING_OV_MODELS_DIR", Path("~/.cache/mmes/models"), folder, "bundles: graphs, tokenizer, manifest")
    search_dir: Path = env("EMBEDDING_SEARCH_DIR", Path("~/.cache/mmes/search"), folder, "vectors of the folders that `mmes search` has searched")
    cache_dir: Path | None = env("EMBEDDING_OV_CACHE_DIR OV_CACHE_DIR", None, folder, "compiled-blob cache; beside the bundle when unset")
    model_cache: bool = env("OV_ENABLE_MODEL_CACHE", True, boolean, "keep compiled blobs")
    precision: str = env("EMBEDDING_PRECISION", "auto", one_of(*PRECISIONS), "inference precision")
    calibration_dir: Path | None = env("EMBEDDING_CALIBRATION_DIR", None, folder, "pictures and .txt files that EMBEDDING_PRECISION=int8 is calibrated on; the shipped samples when unset")
    host: str = env("EMBEDDING_HOST", "127.0.0.1", str, "bind address")
    port: int = env("EMBEDDING_SERVER_PORT", 9777, number(0, 65535), "port; 0 takes a free one")
    aliases: tuple[str, ...] = env("EMBEDDING_MODEL_ALIASES", (), words, "other names that clients may send for the loaded model")
    token_ids: str = env("EMBEDDING_TOKEN_IDS", "reject", one_of("reject", "model", "cl100k"), "what /v1/embeddings does with token ids")
    performance_mode: str = env("OV_PERFORMANCE_MODE", "auto", one_of(*PERFORMANCE_MODES), "OpenVINO performance hint")
    num_streams: int = env("OV_NUM_STREAMS", 0, number(1, 1024, "auto"), "OpenVINO streams")
    num_threads: int = env("OV_INFERENCE_NUM_THREADS", 0, number(1, 1024, "auto"), "OpenVINO inference threads")
    num_requests: int = env("OV_PERFORMANCE_HINT_NUM_REQUESTS", 0, number(1, 1024, "auto"), "OpenVINO hint: requests in flight")
    image_batch: int = env("INFER_BATCH_SIZE", 32, number(1, 1024), "upper bound of an image batch")
    interactive_replica_max_mb: int = env("EMBEDDING_INTERACTIVE_REPLICA_MAX_MB EMBEDDING_EXPRESS_MB", 512, number(0), "largest graph (its .bin file) that gets an interactive replica: a second copy, opened once interactive items wait behind bulk ones on a CPU; 0 = none")
    workers: int = env("PREPROCESS_WORKERS", 0, number(1, 1024, "auto"), "decode and resize threads; auto = cores")
    start_offset: float = env("DEFAULT_START_OFFSET_SEC", 0.0, number(0, unit="seconds"), "segment_config default")
    clip_duration: float = env("DEFAULT_CLIP_DURATION", -1.0, number(-1, unit="seconds"), "segment_config default; -1 = to the end")
    num_frames: int = env("DEFAULT_NUM_FRAMES", 64, number(0), "segment_config default; 0 = all frames")
    frame_batch: int = env("VIDEO_FRAME_BATCH_SIZE", 0, number(1, 1024, "auto"), "frames in flight")
    decoder_workers: int = env("VIDEO_FRAME_DECODER_WORKERS", 0, number(1, 64, "auto"), "video decode threads")
    frame_queue: int = env("VIDEO_FRAME_QUEUE_SIZE", 0, number(1, 1024, "auto"), "decoded frames waiting")
    static_length: int = env("EMBEDDING_STATIC_SEQ_LEN", 2048, number(128, 8192), "QwenText on NPU: tokens of the static graph, rounded up to 128, 256, 512, 1024, 2048, 4096 or 8192")
    chunk_long_text: bool = env("EMBEDDING_CHUNK_LONG_TEXT", True, boolean, "QwenText on NPU: long text in windows")
    accept_keys: tuple[str, ...] = env("EMBEDDING_ACCEPT_KEYS", (), words, "keys of a checkpoint's files to ignore although they are not supported, as errors name them: `config.json:name`, …")
    max_length: int = env("EMBEDDING_MAX_LENGTH", 8192, number(8, 32768), "QwenText: tokens a text is cut to")
    media_fetch: str = env("EMBEDDING_MEDIA_FETCH", "public", one_of("off", "public", "allowlist"), "which URLs may be fetched")
    allowed_hosts: tuple[str, ...] = env("EMBEDDING_MEDIA_ALLOWED_HOSTS", (), words, "host[:port], *.domain or CIDR that may be fetched though private")
    media_roots: tuple[Path, ...] = env("EMBEDDING_MEDIA_ROOTS", (Path("/tmp/videoQnA"), Path("/tmp/dataprep")), folders, "folders that video_file and manifests may read")  # noqa: S108
    api_keys: tuple[str, ...] = env("EMBEDDING_API_KEYS", (), words, "bearer keys; empty = open")
    media_proxy: str = env("EMBEDDING_MEDIA_PROXY", "", str, "the proxy for media")
    image_formats: tuple[str, ...] = env("EMBEDDING_IMAGE_FORMATS", tuple(IMAGE_FORMATS), some_of(*IMAGE_FORMATS), "image formats that may be opened")
    max_body_mb: int = env("EMBEDDING_MAX_BODY_MB", 64, number(1), "request body")
    max_image_mb: int = env("EMBEDDING_MAX_IMAGE_MB", 32, number(1), "one image, encoded")
    max_image_mpix: int = env("EMBEDDING_MAX_IMAGE_MPIX", 64, number(1), "one image's megapixels, from its header")
    max_video_mb: int = env("EMBEDDING_MAX_VIDEO_MB", 512, number(1), "one video, encoded")
    max_video_seconds: int = env("EMBEDDING_MAX_VIDEO_SECONDS", 14400, number(1), "one video's length")
    max_frames: int = env("EMBEDDING_MAX_FRAMES", 4096, number(1), "sampled frames of one video")
    max_items: int = env("EMBEDDING_MAX_ITEMS", 2048, number(1), "items of one request")
    max_text_chars: int = env("EMBEDDING_MAX_TEXT_CHARS", 400_000, number(1), "characters of one text")
    cache_mb: int = env("EMBEDDING_CACHE_MB", 0, number(0), "memory for the vectors of items that come again; 0 = no cache")
    max_pending_mb: int = env("EMBEDDING_MAX_PENDING_MB", 1024, number(1), "bodies and fetched media of all requests that are being answered, then 429")
    max_connections: int = env("EMBEDDING_MAX_CONNECTIONS", 1024, number(1, 65535), "open connections, then 503")
    queue_limit: int = env("EMBEDDING_QUEUE_LIMIT", 8192, number(1), "items admitted and not yet answered, then 429")
    request_timeout: float = env("EMBEDDING_REQUEST_TIMEOUT_SEC", 300.0, number(0.001, unit="seconds"), "deadline of a request")
    header_timeout: float = env("EMBEDDING_HEADER_TIMEOUT_SEC", 20.0, number(0.001, unit="seconds"), "a request's head must have arrived, and an answer must be read on")
    drain: float = env("EMBEDDING_DRAIN_SEC", 25.0, number(0, unit="seconds"), "graceful stop")
    cors_origins: tuple[str, ...] = env("EMBEDDING_CORS_ORIGINS", (), origins, "web pages of these origins may call; empty = only the server's own")
    log_format: str = env("EMBEDDING_LOG_FORMAT", "text", one_of("text", "json"), "log lines on standard error")
    log_level: str = env("EMBEDDING_LOG_LEVEL", "info", one_of("debug", "info", "warning", "error"), "least level of a log line")
    traces: str = env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_ENDPOINT", "", str, "where OpenTelemetry traces go, by OTLP over HTTP (extra `otel`); empty = nowhere")
    app_name: str = env("APP_NAME", "multimodal-embedding-serving", str, "name in the API's description")
    app_title: str = env("APP_DISPLAY_NAME", "Multimodal Embedding Serving", str, "title in the API's description")
    app_description: str = env("APP_DESC", "Text, images and video as vectors in one space.", str, "description of the API")
    # fmt: on

    def __post_init__(self) -> None:
        for name in CACHES:
            object.__setattr__(self, name, getattr(self, name).expanduser())

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read the environment; an override that is not None wins over it (a string is parsed like a variable).

        Raises SettingsError naming the variable and its allowed values.
        """
        environ = os.environ if environ is None else environ
        values = {name: value for name, value in overrides.items() if value is not None}
        for each in fields(cls):
            read = {name: environ.get(name, "").strip() for name in each.metadata["names"]}
            given = values.get(each.name)
            raws = read if given is None else {each.name: given} if isinstance(given, str) else {}
            for name, raw in reversed([item for item in raws.items() if item[1]]):
                values[each.name] = _parsed(name, raw, each.metadata["parse"])
        if environ.get("XDG_CACHE_HOME"):
            for name, below in CACHES.items():
                values.setdefault(name, Path(environ["XDG_CACHE_HOME"], "mmes", below))
        return cls(**values)

    @classmethod
    def variables(cls, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """Those of the environment's variables that are settings, to set up a process elsewhere alike."""
        environ = os.environ if environ is None else environ
        names = (name for each in fields(cls) for name in each.metadata["names"])
        return {name: environ[name] for name in names if environ.get(name, "").strip()}

    @classmethod
    def default_of(cls, name: str) -> Any:
        """The value of a setting that nobody set."""
        return next(each.default for each in fields(cls) if each.name == name)

    @property
    def worker_count(self) -> int:
        return self.workers or len(os.sched_getaffinity(0))


def _parsed(name: str, raw: str, parse: Parse) -> Any:
    try:
        return parse(raw)
    except ValueError as error:
        shown = raw if len(raw) <= 80 else raw[:77] + "..."
        raise SettingsError(f"{name}={shown!r} is not allowed; allowed: {error}") from None
