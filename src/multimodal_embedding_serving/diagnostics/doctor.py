"""Check this machine and these settings, without changing anything.

Each finding is ok, a warning (it works, but maybe not as intended) or broken (serving would fail).
"""

from __future__ import annotations

import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from os import R_OK as READABLE
from os import W_OK as WRITABLE
from os import access, geteuid, scandir
from pathlib import Path
from typing import Literal

from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.checkpoints.hub import describe_client, missing_bytes
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.conversion.resolve import resolve_model
from multimodal_embedding_serving.conversion.store import find_bundle, list_bundles
from multimodal_embedding_serving.diagnostics.integrity import Damage, find_damage
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import EmbeddingError, MissingExtra
from multimodal_embedding_serving.media.decoder_handle import Decoder, Kind
from multimodal_embedding_serving.media.decoder_pool import DecoderLimits
from multimodal_embedding_serving.media.isolation import ATTEMPTS
from multimodal_embedding_serving.monitoring.memory import free_memory
from multimodal_embedding_serving.settings import Settings, find_unknown_variables

State = Literal["ok", "warning", "broken"]
PACKAGES = "openvino numpy tokenizers pillow av fastapi uvicorn huggingface_hub".split()
EXTRAS = "pi-heif torch nncf tiktoken pyarrow lancedb qdrant-client ray".split()
"""Packages that only some features need: HEIC images, and those of the extras."""
ACCELERATORS = {"GPU": "dri/renderD*", "NPU": "accel/accel*"}
"""The nodes of Intel's drivers, below /dev."""
HUB_TIMEOUT = 5.0
"""Seconds to wait for the hub's response."""
MAX_ENTRIES = 100_000
"""Entries of a folder to add up; the size of a larger one is reported as a lower bound."""
MIN_FREE_BYTES = 2e9
"""Of disk space: with less, a conversion may not fit."""


@dataclass(frozen=True, slots=True)
class Finding:
    topic: str
    name: str
    value: str
    state: State = "ok"


Check = Callable[[Settings], Iterator[Finding]]


def examine(
    settings: Settings, *, open_model: bool = False, verify: bool = False
) -> Iterator[Finding]:
    """Yield the findings one by one.

    `open_model`: load the model, too, and run its self-test. `verify`: hash what is installed and
    every converted model.
    """
    checks: list[Check] = [
        versions,
        devices,
        accelerators,
        folders,
        hub,
        model,
        effective,
        cautions,
        isolation,
    ]
    for check in checks:
        yield from check(settings)
    if verify:
        yield from integrity(settings)
    if open_model:
        yield from trial(settings)


def versions(settings: Settings) -> Iterator[Finding]:
    yield Finding("versions", "mmes", version("multimodal-embedding-serving"))
    yield Finding("versions", "python", f"{platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        yield Finding("versions", name, version(name))
    for name in EXTRAS:
        try:
            yield Finding("versions", name, version(name))
        except PackageNotFoundError:
            yield Finding("versions", name, "not installed (optional)")


def devices(settings: Settings) -> Iterator[Finding]:
    """OpenVINO's devices, and whether the configured one is among them."""
    from multimodal_embedding_serving.graph.runtime import ov

    core = ov.Core()
    available = list(core.available_devices)
    for name in available:
        try:
            full_name = core.get_property(name, "FULL_DEVICE_NAME")
            capabilities = ", ".join(sorted(core.get_property(name, "OPTIMIZATION_CAPABILITIES")))
        except RuntimeError as error:  # a driver that is installed but does not work
            yield Finding("devices", name, str(error).splitlines()[0], "warning")
        else:
            yield Finding("devices", name, f"{full_name} ({capabilities})")
    yield Finding("devices", "cores for this process", str(settings.worker_count))
    yield Finding("devices", "memory", f"{free_memory() / 1e9:.1f} GB free")
    if not settings.use_openvino:
        if find_spec("torch") is None:
            problem = MissingExtra("the torch backend", "torch").message
            yield Finding("devices", "EMBEDDING_USE_OV", problem, "broken")
        return
    configured = re.findall(r"(?<!-)\b(?:CPU|GPU|NPU)\b(?:\.\d+)?", settings.device)
    if configured and not any(_is_available(name, available) for name in configured):
        problem = (
            f"{settings.device} is not available; OpenVINO finds "
            f"{', '.join(available) or 'no device'}"
        )
        yield Finding("devices", "EMBEDDING_DEVICE", problem, "broken")


def _is_available(name: str, available: list[str]) -> bool:
    """GPU means the first of GPU.0 and GPU.1; if there is only one, GPU.0 is listed as GPU."""
    return name in available or f"{name}.0" in available or name.removesuffix(".0") in available


def accelerators(settings: Settings, root: Path = Path("/dev")) -> Iterator[Finding]:
    """The nodes of GPU and NPU below `root`, and whether this user may use them.

    Only their owner and mode are read; no node is opened.
    """
    for kind, pattern in ACCELERATORS.items():
        nodes = sorted(node for node in root.glob(pattern) if node.is_char_device())
        for node in nodes:
            yield _accelerator(node)
        if not nodes and re.search(rf"(?<!-)\b{kind}\b", settings.device):
            folder = root / Path(pattern).parent
            problem = f"no {kind}: pass it to the container (compose.yaml), or load its driver"
            yield Finding("devices", str(folder), problem, "warning")


def _accelerator(node: Path) -> Finding:
    group = node.stat().st_gid
    if access(node, READABLE | WRITABLE):
        return Finding("devices", str(node), f"readable and writable (group {group})")
    advice = (
        f"not accessible to user {geteuid()}: add group {group} (Docker: RENDER_GROUP_ID={group}, "
        f"Kubernetes: supplementalGroups: [{group}])"
    )
    return Finding("devices", str(node), advice, "warning")


def folders(settings: Settings) -> Iterator[Finding]:
    paths = {
        "models": settings.models_dir,
        "search": settings.search_dir,
        "hub cache": describe_client().cache,
    }
    if settings.cache_dir is not None:
        paths["compiled blobs"] = settings.cache_dir
    for name, path in paths.items():
        yield _folder(name, path)
    bundles = list(list_bundles(settings.models_dir))
    yield Finding("folders", "converted models", str(len(bundles)))


def _folder(name: str, path: Path) -> Finding:
    existing = path
    while not existing.exists():
        existing = existing.parent
    size = _size(path) if path.is_dir() else "does not exist yet"
    free = shutil.disk_usage(existing).free
    value = f"{path}: {size}, {free / 1e9:.1f} GB free"
    if not access(existing, WRITABLE):
        state: State = "broken" if name in ("models", "compiled blobs") else "warning"
        return Finding("folders", name, f"{value}; not writable", state)
    return Finding("folders", name, value, "warning" if free < MIN_FREE_BYTES else "ok")


def _size(folder: Path) -> str:
    total, remaining, pending = 0, MAX_ENTRIES, [str(folder)]
    while pending and remaining:
        try:
            with scandir(pending.pop()) as entries:
                for entry in entries:
                    remaining -= 1
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
                    if not remaining:
                        break
        except OSError:  # removed in the meantime, or not readable
            continue
    return ("more than " if pending else "") + f"{total / 1e6:,.1f} MB"


def hub(settings: Settings) -> Iterator[Finding]:
    """Whether the hub responds: only a warning, for a local model does not need it."""
    import httpx2

    client = describe_client()
    if client.offline:
        yield Finding("hub", "reachable", "not checked: HF_HUB_OFFLINE is set")
        return
    started = time.monotonic()
    try:
        status = httpx2.head(client.endpoint, timeout=HUB_TIMEOUT).status_code
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        problem = f"{client.endpoint}: no response ({type(error).__name__})"
        yield Finding("hub", "reachable", problem, "warning")
        return
    elapsed = time.monotonic() - started
    value = f"{client.endpoint}: status {status} after {elapsed:.1f} s"
    yield Finding("hub", "reachable", value, "warning" if status >= 500 else "ok")


def model(settings: Settings, access: HubAccess | None = None) -> Iterator[Finding]:
    """Where the configured model is stored, or what has to be downloaded first."""
    try:
        resolved = resolve_model(settings)
        bundle = find_bundle(resolved, settings) if settings.use_openvino else None
        if bundle is not None:
            yield Finding("model", settings.model, _describe(bundle))
            if bundle.manifest.notice:
                yield Finding("model", "notice", bundle.manifest.notice)
            return
    except EmbeddingError as error:
        yield Finding("model", settings.model, error.message, "broken")
        return
    problems = []
    for source in resolved.sources:
        try:
            missing = missing_bytes(source, access=access)
        except EmbeddingError as error:
            problems.append(error.message)
            continue
        size = f"{missing / 1e6:,.1f} MB to download from {source}"
        download = size if missing else f"{source} is downloaded"
        next_step = "to be converted" if settings.use_openvino else "torch loads it as it is"
        yield Finding("model", settings.model, f"{download}; {next_step}")
        return
    yield Finding("model", settings.model, "; ".join(problems), "broken")


def _describe(bundle: Bundle) -> str:
    manifest = bundle.manifest
    towers = " and ".join(sorted(manifest.towers))
    size = f"{bundle.size / 1e6:,.1f} MB"
    facts = f"{manifest.dimension} dimensions, {manifest.precision}, {size}"
    return f"{towers}, {facts}, {bundle.path}"


def effective(settings: Settings) -> Iterator[Finding]:
    """The settings that differ from their defaults, without the values of secrets."""
    defaults = Settings()
    for each in fields(Settings):
        value = getattr(settings, each.name)
        if value != getattr(defaults, each.name):
            shown = str(value) if each.repr else "set"
            yield Finding("settings", each.metadata["names"][0], shown)


def cautions(settings: Settings) -> Iterator[Finding]:
    """Settings that are allowed but often a mistake, and variables that are no settings."""
    for sentence in find_unknown_variables():
        name, _, problem = sentence.partition(" ")
        yield Finding("settings", name, problem, "warning")
    for root in settings.media_roots:
        if not root.is_dir():
            problem = f"{root} does not exist: requests for files in it fail with 404"
            yield Finding("settings", "EMBEDDING_MEDIA_ROOTS", problem, "warning")
    if not settings.api_keys and not settings.is_local:
        problem = (
            f"not set, and {settings.host} accepts other machines: the API is open to everyone"
        )
        yield Finding("settings", "EMBEDDING_API_KEYS", problem, "warning")


def isolation(settings: Settings) -> Iterator[Finding]:
    """What the processes that decode are kept from, as one of each kind found by trying."""
    yield _isolation("video")
    if settings.image_isolation:
        yield _isolation("image")
    else:
        where = "none: decoded in the server's process (EMBEDDING_IMAGE_ISOLATION is false)"
        yield Finding("isolation", "image decoder", where)


def _isolation(kind: Kind) -> Finding:
    name = f"{kind} decoder"
    try:
        with closing(Decoder(kind, DecoderLimits().memory)) as decoder:
            state = decoder.isolation()
    except (OSError, KeyError, TypeError, ValueError) as error:
        problem = f"the process does not start ({type(error).__name__})"
        return Finding("isolation", name, problem, "broken")
    landlock = f"Landlock version {state.landlock}" if state.landlock else "no Landlock"
    means = f"{landlock}, {'seccomp filter' if state.seccomp else 'no seccomp filter'}"
    if state.possible:
        return Finding(
            "isolation", name, f"it can {', '.join(state.possible)} ({means})", "warning"
        )
    return Finding("isolation", name, f"it can't {', '.join(ATTEMPTS)} ({means})")


def integrity(settings: Settings) -> Iterator[Finding]:
    """Whether the installed package, the converted models and what was compiled are whole."""
    for each in find_damage(settings):
        state: State = "broken" if isinstance(each, Damage) else "ok"
        yield Finding("integrity", each.name, each.value, state)


def trial(settings: Settings) -> Iterator[Finding]:
    """Load the model; loading runs its self-test on two texts and two images."""
    started = time.monotonic()
    try:
        with Engine.open(settings=settings) as engine:
            elapsed = time.monotonic() - started
            info = engine.info
            how = f"in {elapsed:.1f} s on {info.device} in {info.inference}"
            yield Finding("model", "opens", f"{how}, fingerprint {info.fingerprint}")
    except EmbeddingError as error:
        yield Finding("model", "opens", error.message, "broken")
