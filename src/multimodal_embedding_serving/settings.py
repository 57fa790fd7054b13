"""The environment as one frozen `Settings`: nothing else reads environment variables.

Each setting is one field. Its metadata holds the variable's names, the default, the parser and the meaning, from which
`make docs` generates the table in docs/configuration.md. A value that is not allowed raises SettingsError at start,
with a message that lists the allowed ones.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from ipaddress import ip_address
from math import inf
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.errors import SettingsError

Parse = Callable[[str], Any]

# fmt: off
PRECISIONS = "auto f32 bf16 f16 int8-weights int4-weights int8".split()
PERFORMANCE_MODES = "auto LATENCY THROUGHPUT CUMULATIVE_THROUGHPUT".split()
IMAGE_FORMATS = "JPEG JPEG2000 PNG WEBP GIF BMP DIB TIFF ICO PPM TGA PCX SGI DDS QOI AVIF HEIF".split()
DEFAULT_MAX_LENGTH = 8192
APPLICATIONS = "immich weaviate ollama tei voyage llamacpp".split()
CACHES = {"models_dir": "models", "search_dir": "search"}
BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
HUB_VARIABLE = re.compile("HF_.+|HUGGINGFACE_.+|HUGGING_FACE_.+|TRANSFORMERS_.+|XDG_CACHE_HOME")
SECRETS = ("EMBEDDING_API_KEYS", "EMBEDDING_MEDIA_PROXY")
"""Variables whose values no message repeats."""
MAX_SECONDS = 604_800
"""A week."""
_HOST = re.compile(r"\*|(\[[0-9a-f:.]+\]|[\w.-]+)(:\d{1,5})?", re.ASCII | re.IGNORECASE)
_KEY = re.compile("[!-~]+")
_ACCEPTED_KEY = re.compile(r"[\w.-]+:[^:\s]\S*")
_ENDPOINT = re.compile(r"https?://[^\s/?#]+\S*", re.IGNORECASE)
_ONE_DEVICE = r"-?(CPU|GPU|NPU|TEMPLATE)(\.\d+)*(\(\d+\))?"
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?")
DEVICE = re.compile(rf"CUDA(:\d+)?|AUTO|{_ONE_DEVICE}|(AUTO|MULTI|HETERO|BATCH):{_ONE_DEVICE}(,{_ONE_DEVICE})*")
# fmt: on


def number(low: float, high: float = inf, word: str = "", *, unit: str = "") -> Parse:
    """Parse a number in [low, high]: an integer unless a `unit` is given. `word` (such as auto) means 0."""
    if unit == "seconds" and high == inf:
        high = MAX_SECONDS  # timers of the system overflow far above it
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
    """Parse one of the `allowed` words, in any case -> that word, or its value in `meaning`."""
    meanings = meaning or {word.lower(): word for word in allowed}

    def parse(raw: str) -> Any:
        if raw.lower() not in meanings:
            raise ValueError(", ".join(allowed))
        return meanings[raw.lower()]

    return parse


parse_precision = one_of(
    *PRECISIONS,
    meaning={word: word for word in PRECISIONS} | {"fp32": "f32", "fp16": "f16"},
)
"""OpenVINO's spelling of the two is accepted."""
parse_boolean = one_of("true", "false", meaning=BOOLEANS)
parse_performance_mode = one_of(
    *PERFORMANCE_MODES,
    meaning={mode.lower(): mode for mode in PERFORMANCE_MODES}
    | {"cumulative": "CUMULATIVE_THROUGHPUT"},
)
"""OpenVINO's hints; `cumulative` is Intel's service's short form of the last."""


def parse_list(raw: str) -> tuple[str, ...]:
    """Split at commas; surrounding spaces and empty parts are dropped."""
    return tuple(part.strip() for part in raw.split(",") if part.strip())


def some_of(*allowed: str) -> Parse:
    """Parse a comma-separated list of `allowed` words, at least one."""
    parse = one_of(*allowed)
    return lambda raw: tuple(parse(part) for part in parse_list(raw) or [raw])


def parse_applications(raw: str) -> tuple[str, ...]:
    """Parse a comma-separated list of APPLICATIONS, or `all`, or `none`."""
    if raw.lower() in ("all", "none"):
        return tuple(APPLICATIONS) if raw.lower() == "all" else ()
    try:
        names: tuple[str, ...] = some_of(*APPLICATIONS)(raw)
        return names
    except ValueError:
        raise ValueError(f"all, none, or a list of {', '.join(APPLICATIONS)}") from None


def list_of(pattern: re.Pattern[str], form: str) -> Parse:
    """Parse a comma-separated list whose parts match; `form` describes them."""

    def parse(raw: str) -> tuple[str, ...]:
        parts = parse_list(raw)
        if not all(pattern.fullmatch(part) for part in parts):
            raise ValueError(f"a list of {form}")
        return parts

    return parse


def parse_endpoint(raw: str) -> str:
    """Parse the URL of an endpoint."""
    if not _ENDPOINT.fullmatch(raw):
        raise ValueError("http://host[:port][/path], or https")
    return raw


def parse_origins(raw: str) -> tuple[str, ...]:
    """Parse origins as browsers send them (RFC 6454), or `*`."""
    origins = parse_list(raw)
    if not all(origin == "*" or _ORIGIN.fullmatch(origin) for origin in origins):
        raise ValueError("*, or a list of https://host[:port]")
    return origins


def parse_device(raw: str) -> str:
    """Parse OpenVINO's grammar (GPU.1, AUTO:-NPU,CPU, BATCH:GPU(4)) or torch's cuda:n, into the library's case."""
    if not DEVICE.fullmatch(raw.upper()):
        raise ValueError(
            "CPU, GPU, GPU.1, NPU, AUTO, AUTO:…, MULTI:…, HETERO:…, BATCH:…, cuda, cuda:0"
        )
    return raw.lower() if raw.lower().startswith("cuda") else raw.upper()


def parse_folders(raw: str) -> tuple[Path, ...]:
    """Split at the system's path separator, `:` on Linux."""
    return tuple(parse_folder(part) for part in raw.split(os.pathsep) if part)


def parse_folder(raw: str) -> Path:
    """Expand ~ and ~user."""
    try:
        return Path(raw).expanduser()
    except RuntimeError:  # no such user
        raise ValueError("a path, in which ~name is a user of this machine") from None


def env(names: str, default: Any, parse: Parse, meaning: str) -> Any:
    """A field that is read from the first of `names` (space-separated) that is set and not empty."""
    secret = names in SECRETS  # not in the repr, and so not in logs
    metadata = {"names": names.split(), "parse": parse, "meaning": meaning}
    return field(default=default, metadata=metadata, repr=not secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The configuration of one service. A field's name gives the unit of a limit."""

    # fmt: off
    model: str = env("EMBEDDING_MODEL_NAME", "Builtin/mini", str, "model to serve: catalog id, alias, `hf:org/name`, or a folder")
    device: str = env("EMBEDDING_DEVICE", "CPU", parse_device, "any OpenVINO device string, or cpu / cuda / cuda:n with the torch backend")
    use_openvino: bool = env("EMBEDDING_USE_OV", True, parse_boolean, "run the model with OpenVINO; false = with torch (extra `torch`)")
    models_dir: Path = env("EMBEDDING_OV_MODELS_DIR", Path("~/.cache/mmes/models"), parse_folder, "folder for converted models (bundles: graphs, tokenizer, manifest)")
    search_dir: Path = env("EMBEDDING_SEARCH_DIR", Path("~/.cache/mmes/search"), parse_folder, "folder for the vectors of folders searched with `mmes search`")
    cache_dir: Path | None = env("EMBEDDING_OV_CACHE_DIR OV_CACHE_DIR", None, parse_folder, "cache of compiled graphs; next to the bundle if unset")
    model_cache: bool = env("OV_ENABLE_MODEL_CACHE", True, parse_boolean, "cache compiled graphs")
    verify: str = env("EMBEDDING_VERIFY", "full", one_of("full", "background", "off"), "when the model's files are compared with their checksums: full = before the model is served; background = the weights of a model above 2 GB afterwards, all else before; off = never ([what is checked](operations.md#damaged-files))")
    precision: str = env("EMBEDDING_PRECISION", "auto", parse_precision, "inference precision")
    dynamic_quantization: str = env("EMBEDDING_DYNAMIC_QUANTIZATION", "auto", one_of("auto", "off", "on"), "INT8 activations for models with INT8 or INT4 weights: faster on CPUs with VNNI or AMX, less exact; auto = on where this machine's CPU multiplies in INT8 and the accuracy check passes")
    calibration_dir: Path | None = env("EMBEDDING_CALIBRATION_DIR", None, parse_folder, "folder of images and .txt files to calibrate EMBEDDING_PRECISION=int8 with; the bundled samples if unset")
    host: str = env("EMBEDDING_HOST", "127.0.0.1", str, "address to listen on")
    port: int = env("EMBEDDING_SERVER_PORT", 9777, number(0, 65535), "port to listen on; 0 = any free port")
    aliases: tuple[str, ...] = env("EMBEDDING_MODEL_ALIASES", (), parse_list, "additional names that clients may use for the loaded model")
    token_ids: str = env("EMBEDDING_TOKEN_IDS", "reject", one_of("reject", "model", "cl100k"), "token ids sent to /v1/embeddings: reject them, or read them as the loaded model's or as cl100k_base (extra `tiktoken`)")
    dialects: tuple[str, ...] = env("EMBEDDING_DIALECTS", tuple(APPLICATIONS), parse_applications, "applications whose own API is served beside the native one, OpenAI's and Cohere's ([applications](guides/applications.md)); none = no application's")
    immich_upstream: str = env("EMBEDDING_IMMICH_UPSTREAM", "", parse_endpoint, "address of immich's own machine-learning service, to which requests of immich for faces and text recognition are forwarded; empty = they are rejected")
    performance_mode: str = env("OV_PERFORMANCE_MODE OPENVINO_PERFORMANCE_MODE", "auto", parse_performance_mode, "OpenVINO performance hint")
    num_streams: int = env("OV_NUM_STREAMS", 0, number(1, 1024, "auto"), "number of OpenVINO streams; with several, OpenVINO 2026.4 computes INT8 weights wrongly on a CPU, and the accuracy check rejects the model")
    num_threads: int = env("OV_INFERENCE_NUM_THREADS", 0, number(1, 1024, "auto"), "number of OpenVINO inference threads")
    num_requests: int = env("OV_PERFORMANCE_HINT_NUM_REQUESTS PERFORMANCE_HINT_NUM_REQUESTS", 0, number(1, 1024, "auto"), "OpenVINO hint: number of inference requests in flight")
    image_batch: int = env("INFER_BATCH_SIZE", 32, number(1, 1024), "maximum images per batch")
    interactive_replica_max_mb: int = env("EMBEDDING_INTERACTIVE_REPLICA_MAX_MB EMBEDDING_EXPRESS_MB", 512, number(0), "largest graph (its .bin file) that gets an interactive replica on a CPU: a second copy, loaded once interactive items wait behind bulk ones; 0 = none")
    workers: int = env("PREPROCESS_WORKERS", 0, number(1, 1024, "auto"), "threads that decode and resize images and tokenize texts, besides one that is reserved for interactive requests; auto = one per core")
    start_offset: float = env("DEFAULT_START_OFFSET_SEC", 0.0, number(0, unit="seconds"), "default of `startOffsetSec` in `segment_config`")
    clip_duration: float = env("DEFAULT_CLIP_DURATION", -1.0, number(-1, unit="seconds"), "default of `clip_duration` in `segment_config`; -1 = to the end of the video")
    num_frames: int = env("DEFAULT_NUM_FRAMES", 64, number(0), "default of `num_frames` in `segment_config`; 0 = all frames")
    frame_batch: int = env("VIDEO_FRAME_BATCH_SIZE", 0, number(1, 1024, "auto"), "images or frames of one request in flight")
    decoder_workers: int = env("VIDEO_FRAME_DECODER_WORKERS", 0, number(1, 64, "auto"), "decoder threads per video")
    frame_queue: int = env("VIDEO_FRAME_QUEUE_SIZE", 0, number(1, 1024, "auto"), "decoded frames of one video waiting for the image tower")
    static_length: int = env("EMBEDDING_STATIC_SEQ_LEN", 2048, number(128, 8192), "QwenText on NPU: token length of the static graph, rounded up to 128, 256, 512, 1024, 2048, 4096 or 8192")
    chunk_long_text: bool = env("EMBEDDING_CHUNK_LONG_TEXT", True, parse_boolean, "QwenText on NPU: embed a text longer than the static graph in windows; false = truncate it")
    accept_keys: tuple[str, ...] = env("EMBEDDING_ACCEPT_KEYS", (), list_of(_ACCEPTED_KEY, "file:key, such as config.json:name"), "keys of a checkpoint's files to ignore although they are not supported, as errors name them: `config.json:name`, …")
    max_length: int | None = env("EMBEDDING_MAX_LENGTH", None, number(8, 32768), f"maximum tokens of a text, up to what the model allows; a longer one is truncated. If unset: {DEFAULT_MAX_LENGTH}, or the smaller limit that the checkpoint's own files state")
    media_fetch: str = env("EMBEDDING_MEDIA_FETCH", "public", one_of("off", "public", "allowlist"), "which URLs the server may fetch")
    allowed_hosts: tuple[str, ...] = env("EMBEDDING_MEDIA_ALLOWED_HOSTS", (), parse_list, "host[:port], *.domain or CIDR range that may be fetched even if private")
    media_roots: tuple[Path, ...] = env("EMBEDDING_MEDIA_ROOTS", (Path("/tmp/videoQnA"), Path("/tmp/dataprep")), parse_folders, "folders that video_file and frames_batch inputs may read")  # noqa: S108
    api_keys: tuple[str, ...] = env("EMBEDDING_API_KEYS", (), list_of(_KEY, "keys of printable ASCII characters without spaces"), "bearer tokens that clients must send; empty = the API is open")
    media_proxy: str = env("EMBEDDING_MEDIA_PROXY", "", str, "proxy for fetching media")
    image_formats: tuple[str, ...] = env("EMBEDDING_IMAGE_FORMATS", tuple(IMAGE_FORMATS), some_of(*IMAGE_FORMATS), "accepted image formats")
    jpeg_decode: str = env("EMBEDDING_JPEG_DECODE", "auto", one_of("auto", "exact", "fast"), "JPEG decoding: exact = at full size; fast = scaled down while decoding, to at least twice the side that the model needs ([cost](parity.md#jpeg-decoding)); auto = exact if EMBEDDING_PRECISION is f32, else fast")
    image_isolation: bool = env("EMBEDDING_IMAGE_ISOLATION", False, parse_boolean, "decode images in separate processes that have neither files nor a network ([what it costs](safety.md#isolation)); false = in the server's own process")
    max_body_mb: int = env("EMBEDDING_MAX_BODY_MB", 64, number(1), "maximum size of a request body")
    max_image_mb: int = env("EMBEDDING_MAX_IMAGE_MB", 32, number(1), "maximum size of an encoded image")
    max_image_mpix: int = env("EMBEDDING_MAX_IMAGE_MPIX", 64, number(1), "maximum megapixels of an image, read from its header")
    max_video_mb: int = env("EMBEDDING_MAX_VIDEO_MB", 512, number(1), "maximum size of an encoded video")
    max_video_seconds: int = env("EMBEDDING_MAX_VIDEO_SECONDS", 14400, number(1), "maximum duration of a video")
    max_frames: int = env("EMBEDDING_MAX_FRAMES", 4096, number(1), "maximum frames sampled from a video")
    max_items: int = env("EMBEDDING_MAX_ITEMS", 2048, number(1), "maximum items per request")
    max_text_chars: int = env("EMBEDDING_MAX_TEXT_CHARS", 400_000, number(1), "maximum characters of a text")
    cache_mb: int = env("EMBEDDING_CACHE_MB", 0, number(0), "size of the embedding cache; 0 = no cache")
    max_pending_mb: int = env("EMBEDDING_MAX_PENDING_MB", 1024, number(1), "maximum memory for the bodies and fetched media of all requests in progress, of which one client may hold half; beyond it, 429")
    max_fetches: int = env("EMBEDDING_MAX_FETCHES", 64, number(1, 4096), "maximum URLs fetched at a time, at most half of them for one client; the others wait within their request's deadline")
    max_connections: int = env("EMBEDDING_MAX_CONNECTIONS", 1024, number(1, 65535), "maximum open connections; beyond it, an idle one is closed for each new one, and if none is idle, 503")
    queue_limit: int = env("EMBEDDING_QUEUE_LIMIT", 8192, number(1), "maximum items that are being prepared, queued or computed, frames of videos included; one eighth is reserved for requests with at most 8 items and no video; beyond it, 429 for clients that hold their share")
    request_timeout: float = env("EMBEDDING_REQUEST_TIMEOUT_SEC", 300.0, number(0.001, unit="seconds"), "deadline of a request; after it, 504")
    header_timeout: float = env("EMBEDDING_HEADER_TIMEOUT_SEC", 20.0, number(0.001, unit="seconds"), "time limit for receiving a request's headers, and for a client to keep reading its response")
    keepalive: float = env("EMBEDDING_KEEPALIVE_SEC", 75.0, number(0.001, unit="seconds"), "how long an idle connection stays open; keep it above the idle timeout of the load balancer in front (60 s for nginx and AWS), or requests fail now and then")
    drain: float = env("EMBEDDING_DRAIN_SEC", 25.0, number(0, unit="seconds"), "time limit for answering the requests in progress on shutdown")
    cors_origins: tuple[str, ...] = env("EMBEDDING_CORS_ORIGINS", (), parse_origins, "origins whose web pages may call the API; empty = only the server's own")
    server_names: tuple[str, ...] = env("EMBEDDING_ALLOWED_HOSTS", (), list_of(_HOST, "host[:port], or *"), "Host headers that a loopback server without API keys accepts besides localhost, 127.0.0.1 and [::1]; * = any")
    log_format: str = env("EMBEDDING_LOG_FORMAT", "text", one_of("text", "json"), "format of the log lines on standard error")
    log_level: str = env("EMBEDDING_LOG_LEVEL", "info", one_of("debug", "info", "warning", "error"), "minimum level of a log line")
    traces: str = env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT OTEL_EXPORTER_OTLP_ENDPOINT", "", parse_endpoint, "endpoint for OpenTelemetry traces, by OTLP over HTTP (extra `otel`); empty = no traces")
    app_name: str = env("APP_NAME", "multimodal-embedding-serving", str, "summary in the API description")
    app_title: str = env("APP_DISPLAY_NAME", "Multimodal Embedding Serving", str, "title of the API description")
    app_description: str = env("APP_DESC", "Text, images and video as vectors in one space.", str, "text of the API description")
    # fmt: on

    def __post_init__(self) -> None:
        for name in CACHES:
            object.__setattr__(self, name, getattr(self, name).expanduser())

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read the environment. An override that is not None wins; if it is a string, it is parsed like a variable.

        Raises SettingsError, which names the variable and lists the allowed values.
        """
        environ = os.environ if environ is None else environ
        values = {name: value for name, value in overrides.items() if value is not None}
        for each in fields(cls):
            read = {name: environ.get(name, "").strip() for name in each.metadata["names"]}
            override = values.get(each.name)
            raws = (
                read
                if override is None
                else {each.name: override}
                if isinstance(override, str)
                else {}
            )
            readings = {
                name: _parse(name, raw, each.metadata["parse"]) for name, raw in raws.items() if raw
            }
            if readings:
                values[each.name] = _agreed(readings, raws)
        if "model" not in values:
            _refuse_replaced(environ)
        if environ.get("XDG_CACHE_HOME"):
            for name, subfolder in CACHES.items():
                values.setdefault(name, Path(environ["XDG_CACHE_HOME"], "mmes", subfolder))
        settings = cls(**values)
        if (settings.dynamic_quantization, settings.precision) == ("on", "f32"):
            raise SettingsError(
                "EMBEDDING_DYNAMIC_QUANTIZATION='on' is not allowed with EMBEDDING_PRECISION='f32', "
                "which computes exactly; allowed: auto, off"
            )
        return settings

    @classmethod
    def variables(cls, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment's variables that are settings, to configure a process elsewhere the same way."""
        environ = os.environ if environ is None else environ
        names = (name for each in fields(cls) for name in each.metadata["names"])
        return {name: environ[name] for name in names if environ.get(name, "").strip()}

    @classmethod
    def merge(cls, base: Mapping[str, str], override: Mapping[str, str]) -> dict[str, str]:
        """Variables of `base`, overridden by those of `override` under any name of a setting."""
        merged = dict(base)
        for each in fields(cls):
            names = each.metadata["names"]
            if any(override.get(name, "").strip() for name in names):
                for name in names:
                    merged.pop(name, None)
        return {**merged, **override}

    def text_limit(self, own: int | None) -> int:
        """The maximum tokens of a text; `own` is the limit that the model's files state."""
        if self.max_length is not None:
            return self.max_length
        return min(DEFAULT_MAX_LENGTH, own or DEFAULT_MAX_LENGTH)

    @property
    def is_local(self) -> bool:
        """Whether the server listens for this machine only."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def worker_count(self) -> int:
        return self.workers or len(os.sched_getaffinity(0))


IGNORED_VARIABLES = {
    "MAX_PARALLEL_WORKERS": "the number of inference requests follows the device",
    "USE_ONLY_TEXT_EMBEDDINGS": "the model decides what it embeds, as `/model/capabilities` says",
    "VIDEO_FRAME_LOG_LEVEL": "use `EMBEDDING_LOG_LEVEL`",
    "VIDEO_FRAME_SHM_POOL_BLOCKS_MULTIPLIER": "shared memory follows `VIDEO_FRAME_QUEUE_SIZE`",
    "VIDEO_FRAME_SHM_POOL_BLOCK_SIZE": "the size of shared memory follows the video's",
    "no_proxy_env": "use `no_proxy`",
}
"""Variables of Intel's service that have no effect here, and why that does no harm."""
REPLACED_VARIABLES = (
    "IMAGE_EMBEDDING_MODEL_NAME",
    "TEXT_EMBEDDING_MODEL_NAME",
    "VCLIP_MODEL",
    "QWEN_MODEL",
)
"""Names that earlier versions of Intel's service had for the model: alone, they are refused."""
NEAR_MISSES = {
    "EMBEDDING_MODEL": "EMBEDDING_MODEL_NAME",
    "EMBEDDING_MODEL_ID": "EMBEDDING_MODEL_NAME",
    "EMBEDDING_PORT": "EMBEDDING_SERVER_PORT",
    "EMBEDDING_SERVER_HOST": "EMBEDDING_HOST",
    "EMBEDDING_API_KEY": "EMBEDDING_API_KEYS",
    "EMBEDDING_BATCH_SIZE": "INFER_BATCH_SIZE",
    "EMBEDDING_USE_OPENVINO": "EMBEDDING_USE_OV",
    "EMBEDDING_MODELS_DIR": "EMBEDDING_OV_MODELS_DIR",
    "OV_MODELS_DIR": "EMBEDDING_OV_MODELS_DIR",
}
"""Names that people write, and the setting that they mean, where the spelling alone does not tell."""
OWN_PREFIXES = ("EMBEDDING_", "VIDEO_FRAME_", "INFER_", "PREPROCESS_", "DEFAULT_", "OV_", "APP_")
MIN_LIKENESS = 0.85
"""Of a name to a setting, to be taken for a misspelling of it (difflib's ratio)."""
SERVICE_LINK = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP)(_\w+)?)")
"""What Kubernetes and Docker set for a service that is named `embedding`."""


def find_unknown_variables(environ: Mapping[str, str] | None = None) -> list[str]:
    """One sentence for each variable that looks like a setting but has no effect, to warn of."""
    environ = os.environ if environ is None else environ
    known = {name for each in fields(Settings) for name in each.metadata["names"]}
    sentences = []
    for name in sorted(environ):
        linked = SERVICE_LINK.fullmatch(name) or "://" in environ[name]
        if name in known or not environ[name].strip() or linked:
            continue
        if name in IGNORED_VARIABLES:
            sentences.append(f"{name} is ignored: {IGNORED_VARIABLES[name]}")
        elif name in REPLACED_VARIABLES:
            sentences.append(f"{name} is ignored: EMBEDDING_MODEL_NAME names the model")
        elif name.startswith(OWN_PREFIXES):
            meant = NEAR_MISSES.get(name) or next(
                iter(get_close_matches(name, known, n=1, cutoff=MIN_LIKENESS)), None
            )
            if meant is not None:
                sentences.append(
                    f"{name} is not a setting and has no effect; did you mean {meant}?"
                )
            elif name.startswith("EMBEDDING_"):
                sentences.append(f"{name} is not a setting and has no effect")
    return sentences


def _refuse_replaced(environ: Mapping[str, str]) -> None:
    """Without EMBEDDING_MODEL_NAME, an old name of the model must not lead to another model."""
    for name in REPLACED_VARIABLES:
        if environ.get(name, "").strip():
            raise SettingsError(
                f"{name}={environ[name]!r} is a setting of earlier versions of Intel's service; "
                "set EMBEDDING_MODEL_NAME instead (`mmes models` lists the models)"
            )


def unset_empty_hub_variables(environ: MutableMapping[str, str] | None = None) -> None:
    """Remove the hub client's variables that are empty, as `HF_ENDPOINT=` in a compose file is.

    The client reads them when it is imported, and takes an empty one for a value: HF_HOME for the
    working directory, HF_ENDPOINT for an address.
    """
    environ = os.environ if environ is None else environ
    for name in [name for name in environ if HUB_VARIABLE.fullmatch(name)]:
        if not environ[name].strip():
            del environ[name]


def _agreed(readings: Mapping[str, Any], raws: Mapping[str, str]) -> Any:
    """The value of a setting that may have several names. Raises SettingsError if they differ."""
    (first, value), *others = readings.items()
    for name, other in others:
        # By OpenTelemetry's own rule, the variable of traces wins over the general one.
        if other != value and not name.startswith("OTEL_"):
            raise SettingsError(
                f"{first}={raws[first]!r} and {name}={raws[name]!r} are two names of one setting "
                f"and contradict each other; set only {first}"
            )
    return value


def _parse(name: str, raw: str, parse: Parse) -> Any:
    try:
        return parse(raw)
    except ValueError as error:
        excerpt = raw if len(raw) <= 80 else raw[:77] + "..."
        shown = "…" if name in SECRETS else repr(excerpt)
        raise SettingsError(f"{name}={shown} is not allowed; allowed: {error}") from None
