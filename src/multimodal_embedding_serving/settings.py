"""The environment as one frozen `Settings`: the only reader of environment variables.

Each setting is one field; its name, default, allowed values and meaning are its metadata, from which the table
in the docs is generated. An unknown value is refused at start with a message that lists the allowed ones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.errors import SettingsError

Parse = Callable[[str], Any]

PRECISIONS = ("auto", "f32", "bf16", "f16", "int8-weights", "int4-weights", "int8")
IMAGE_FORMATS = (
    "JPEG JPEG2000 PNG WEBP GIF BMP DIB TIFF ICO PPM TGA PCX SGI DDS QOI AVIF HEIF".split()
)


def text(raw: str) -> str:
    return raw


def boolean(raw: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "on": True}
    words |= {"false": False, "0": False, "no": False, "off": False}
    try:
        return words[raw.lower()]
    except KeyError:
        raise ValueError("allowed: true, false") from None


def integer(low: int, high: int | None = None, word: str | None = None) -> Parse:
    """Whole numbers in [low, high]; `word` (such as auto) stands for 0."""

    def parse(raw: str) -> int:
        if word is not None and raw.lower() == word:
            return 0
        bounds = f"{low} or more" if high is None else f"{low} to {high}"
        try:
            value = int(raw)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise ValueError(
                f"allowed: a whole number, {bounds}" + (f", or {word}" if word else "")
            )
        return value

    return parse


def seconds(low: float) -> Parse:
    def parse(raw: str) -> float:
        try:
            value = float(raw)
        except ValueError:
            value = float("nan")
        if not low <= value < float("inf"):
            raise ValueError(f"allowed: a number of seconds, {low:g} or more")
        return value

    return parse


def one_of(*allowed: str) -> Parse:
    def parse(raw: str) -> str:
        for value in allowed:
            if raw.lower() == value.lower():
                return value
        raise ValueError("allowed: " + ", ".join(allowed))

    return parse


def some_of(*allowed: str) -> Parse:
    each = one_of(*allowed)
    return lambda raw: tuple(each(part.strip()) for part in raw.split(",") if part.strip())


def words(raw: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in raw.split(",") if part.strip())


def folder(raw: str) -> Path:
    return Path(raw).expanduser()


def folders(raw: str) -> tuple[Path, ...]:
    return tuple(folder(part) for part in raw.split(os.pathsep) if part)


def user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mmes"


def env(names: str, default: Any, parse: Parse, meaning: str) -> Any:
    """A field read from the first of `names` (space-separated) that is set and not empty."""
    return field(
        default=default, metadata={"names": names.split(), "parse": parse, "meaning": meaning}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the service was told. Limits are in the unit that the field's name says."""

    # fmt: off
    model: str = env("EMBEDDING_MODEL_NAME", "Builtin/mini", text, "catalog id, alias, `hf:org/name`, or a folder")
    device: str = env("EMBEDDING_DEVICE", "CPU", text, "any OpenVINO device string, or cpu / cuda / cuda:n with the torch backend")
    use_openvino: bool = env("EMBEDDING_USE_OV", True, boolean, "false = the torch backend (extra `torch`)")
    models_dir: Path = env("EMBEDDING_OV_MODELS_DIR", Path("~/.cache/mmes/models"), folder, "bundles: graphs, tokenizer, manifest")
    cache_dir: Path | None = env("EMBEDDING_OV_CACHE_DIR OV_CACHE_DIR", None, folder, "compiled-blob cache; beside the bundle when unset")
    model_cache: bool = env("OV_ENABLE_MODEL_CACHE", True, boolean, "keep compiled blobs")
    precision: str = env("EMBEDDING_PRECISION", "auto", one_of(*PRECISIONS), "inference precision")
    host: str = env("EMBEDDING_HOST", "127.0.0.1", text, "bind address")
    port: int = env("EMBEDDING_SERVER_PORT", 9777, integer(0, 65535), "port; 0 takes a free one")
    aliases: tuple[str, ...] = env("EMBEDDING_MODEL_ALIASES", (), words, "other names that clients may send for the loaded model")
    token_ids: str = env("EMBEDDING_TOKEN_IDS", "reject", one_of("reject", "model", "cl100k"), "what /v1/embeddings does with token ids")
    performance_mode: str = env("OV_PERFORMANCE_MODE", "auto", one_of("auto", "LATENCY", "THROUGHPUT", "CUMULATIVE_THROUGHPUT"), "OpenVINO performance hint")
    num_streams: int = env("OV_NUM_STREAMS", 0, integer(1, 1024, "auto"), "OpenVINO streams")
    num_threads: int = env("OV_INFERENCE_NUM_THREADS", 0, integer(1, 1024, "auto"), "OpenVINO inference threads")
    num_requests: int = env("OV_PERFORMANCE_HINT_NUM_REQUESTS", 0, integer(1, 1024, "auto"), "OpenVINO hint: requests in flight")
    image_batch: int = env("INFER_BATCH_SIZE", 32, integer(1, 1024), "upper bound of an image batch")
    workers: int = env("PREPROCESS_WORKERS", 0, integer(1, 1024, "auto"), "decode and resize threads; auto = cores")
    start_offset: float = env("DEFAULT_START_OFFSET_SEC", 0.0, seconds(0), "segment_config default")
    clip_duration: float = env("DEFAULT_CLIP_DURATION", -1.0, seconds(-1), "segment_config default; -1 = to the end")
    num_frames: int = env("DEFAULT_NUM_FRAMES", 64, integer(0), "segment_config default; 0 = all frames")
    frame_batch: int = env("VIDEO_FRAME_BATCH_SIZE", 0, integer(1, 1024, "auto"), "frames in flight")
    decoder_workers: int = env("VIDEO_FRAME_DECODER_WORKERS", 0, integer(1, 64, "auto"), "video decode threads")
    frame_queue: int = env("VIDEO_FRAME_QUEUE_SIZE", 0, integer(1, 1024, "auto"), "decoded frames waiting")
    static_length: int = env("EMBEDDING_STATIC_SEQ_LEN", 2048, integer(128, 8192), "QwenText on NPU: tokens of the static graph")
    chunk_long_text: bool = env("EMBEDDING_CHUNK_LONG_TEXT", True, boolean, "QwenText on NPU: long text in windows")
    max_length: int = env("EMBEDDING_MAX_LENGTH", 8192, integer(8, 32768), "QwenText: tokens a text is cut to")
    media_fetch: str = env("EMBEDDING_MEDIA_FETCH", "public", one_of("off", "public", "allowlist"), "which URLs may be fetched")
    allowed_hosts: tuple[str, ...] = env("EMBEDDING_MEDIA_ALLOWED_HOSTS", (), words, "host[:port], *.domain or CIDR that may be fetched though private")
    media_roots: tuple[Path, ...] = env("EMBEDDING_MEDIA_ROOTS", (Path("/tmp/videoQnA"), Path("/tmp/dataprep")), folders, "folders that video_file and manifests may read")  # noqa: S108
    api_keys: tuple[str, ...] = env("EMBEDDING_API_KEYS", (), words, "bearer keys; empty = open")
    media_proxy: str = env("EMBEDDING_MEDIA_PROXY", "", text, "the proxy for media")
    image_formats: tuple[str, ...] = env("EMBEDDING_IMAGE_FORMATS", tuple(IMAGE_FORMATS), some_of(*IMAGE_FORMATS), "image formats that may be opened")
    max_body_mb: int = env("EMBEDDING_MAX_BODY_MB", 64, integer(1), "request body")
    max_image_mb: int = env("EMBEDDING_MAX_IMAGE_MB", 32, integer(1), "one image, encoded")
    max_image_mpix: int = env("EMBEDDING_MAX_IMAGE_MPIX", 64, integer(1), "one image's megapixels, from its header")
    max_video_mb: int = env("EMBEDDING_MAX_VIDEO_MB", 512, integer(1), "one video, encoded")
    max_video_seconds: int = env("EMBEDDING_MAX_VIDEO_SECONDS", 14400, integer(1), "one video's length")
    max_frames: int = env("EMBEDDING_MAX_FRAMES", 4096, integer(1), "sampled frames of one video")
    max_items: int = env("EMBEDDING_MAX_ITEMS", 2048, integer(1), "items of one request")
    max_text_chars: int = env("EMBEDDING_MAX_TEXT_CHARS", 400_000, integer(1), "characters of one text")
    queue_limit: int = env("EMBEDDING_QUEUE_LIMIT", 8192, integer(1), "items admitted and not yet answered, then 429")
    request_timeout: float = env("EMBEDDING_REQUEST_TIMEOUT_SEC", 300.0, seconds(0.001), "deadline of a request")
    drain: float = env("EMBEDDING_DRAIN_SEC", 25.0, seconds(0), "graceful stop")
    app_name: str = env("APP_NAME", "multimodal-embedding-serving", text, "name in the API's description")
    app_title: str = env("APP_DISPLAY_NAME", "Multimodal Embedding Serving", text, "title in the API's description")
    app_description: str = env("APP_DESC", "Text, images and video as vectors in one space.", text, "description of the API")
    # fmt: on

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Read the environment; `overrides` that are not None win over it.

        Raises SettingsError naming the variable and its allowed values.
        """
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {"models_dir": user_cache() / "models"}
        for each in fields(cls):
            for name in each.metadata["names"]:
                raw = environ.get(name, "").strip()
                if raw:
                    values[each.name] = _parse(name, raw, each.metadata["parse"])
                    break
        values |= {name: value for name, value in overrides.items() if value is not None}
        return cls(**values)

    @property
    def worker_count(self) -> int:
        return self.workers or len(os.sched_getaffinity(0))


def _parse(name: str, raw: str, parse: Parse) -> Any:
    try:
        return parse(raw)
    except ValueError as error:
        shown = raw if len(raw) <= 80 else raw[:77] + "..."
        raise SettingsError(f"{name}={shown!r} is not allowed; {error}") from None
