"""What this machine and these settings make of the service: looked at, nothing changed.

Each finding is ok, a warning (it works, but perhaps not as meant) or broken (serving would fail).
"""

from __future__ import annotations

import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from ipaddress import ip_address
from os import W_OK as WRITABLE
from os import access, scandir
from pathlib import Path
from typing import Literal

from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.checkpoints.hub import missing_bytes
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.conversion.resolve import resolve_model
from multimodal_embedding_serving.conversion.store import find_bundle, list_bundles
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import EmbeddingError, MissingExtra
from multimodal_embedding_serving.monitoring.memory import free_memory
from multimodal_embedding_serving.settings import Settings

State = Literal["ok", "warning", "broken"]
PACKAGES = "openvino numpy tokenizers pillow av fastapi uvicorn huggingface_hub".split()
EXTRAS = "torch nncf pillow-heif tiktoken pyarrow lancedb qdrant-client ray".split()
"""Packages that some extra brings."""
PATIENCE = 5.0
"""Seconds until the hub is said not to answer."""
ENTRIES = 100_000
"""Files of a folder that are counted before its size is told as a lower bound."""
LITTLE = 2e9
"""Bytes of free disk below which a conversion may not fit."""


@dataclass(frozen=True, slots=True)
class Finding:
    topic: str
    name: str
    value: str
    state: State = "ok"


Look = Callable[[Settings], Iterator[Finding]]


def examine(settings: Settings, *, open_model: bool = False) -> Iterator[Finding]:
    """Every finding, as it is made. `open_model`: open it as well, and run its self-test."""
    looks: list[Look] = [versions, devices, folders, hub, model, effective, cautions]
    for look in looks:
        yield from look(settings)
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
    """What OpenVINO finds, and whether the configured device is among it."""
    from multimodal_embedding_serving.graph.runtime import ov

    core = ov.Core()
    found = list(core.available_devices)
    for name in found:
        try:
            full = core.get_property(name, "FULL_DEVICE_NAME")
            able = ", ".join(sorted(core.get_property(name, "OPTIMIZATION_CAPABILITIES")))
        except RuntimeError as error:  # a driver that is there and does not work
            yield Finding("devices", name, str(error).splitlines()[0], "warning")
        else:
            yield Finding("devices", name, f"{full} ({able})")
    yield Finding("devices", "cores for this process", str(settings.worker_count))
    yield Finding("devices", "memory", f"{free_memory() / 1e9:.1f} GB free")
    if not settings.use_openvino:
        if find_spec("torch") is None:
            lacking = MissingExtra("the torch backend", "torch").message
            yield Finding("devices", "EMBEDDING_USE_OV", lacking, "broken")
        return
    named = re.findall(r"(?<!-)\b(?:CPU|GPU|NPU)\b(?:\.\d+)?", settings.device)
    present = [name for name in named if _is_among(name, found)]
    if named and not present:
        lacking = f"{settings.device}: OpenVINO finds only {', '.join(found) or 'no device'}"
        yield Finding("devices", "EMBEDDING_DEVICE", lacking, "broken")


def _is_among(name: str, found: list[str]) -> bool:
    """GPU is the first of GPU.0 and GPU.1; GPU.0 may be the only one, which is called GPU."""
    return name in found or f"{name}.0" in found or name.removesuffix(".0") in found


def folders(settings: Settings) -> Iterator[Finding]:
    from huggingface_hub import constants

    places = {
        "models": settings.models_dir,
        "search": settings.search_dir,
        "hub cache": Path(constants.HF_HUB_CACHE),
    }
    if settings.cache_dir is not None:
        places["compiled blobs"] = settings.cache_dir
    for name, path in places.items():
        yield _folder(name, path)
    bundles = list(list_bundles(settings.models_dir))
    yield Finding("folders", "converted models", str(len(bundles)))


def _folder(name: str, path: Path) -> Finding:
    existing = path
    while not existing.exists():
        existing = existing.parent
    size = _size(path) if path.is_dir() else "not there yet"
    free = shutil.disk_usage(existing).free
    told = f"{path}: {size}, {free / 1e9:.1f} GB free"
    if not access(existing, WRITABLE):
        needed = name in ("models", "compiled blobs")
        return Finding("folders", name, f"{told}; not writable", "broken" if needed else "warning")
    return Finding("folders", name, told, "warning" if free < LITTLE else "ok")


def _size(folder: Path) -> str:
    total, left, more = 0, ENTRIES, [str(folder)]
    while more and left:
        try:
            with scandir(more.pop()) as entries:
                for entry in entries:
                    left -= 1
                    if entry.is_dir(follow_symlinks=False):
                        more.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
                    if not left:
                        break
        except OSError:  # it was removed meanwhile, or may not be read
            continue
    return ("more than " if more else "") + f"{total / 1e6:,.1f} MB"


def hub(settings: Settings) -> Iterator[Finding]:
    """Whether anything answers at the hub's address; a model that is here needs no hub."""
    import httpx2
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        yield Finding("hub", "reachable", "not asked: HF_HUB_OFFLINE is set")
        return
    started = time.monotonic()
    try:
        status = httpx2.head(constants.ENDPOINT, timeout=PATIENCE).status_code
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        told = f"{constants.ENDPOINT}: no answer ({type(error).__name__})"
        yield Finding("hub", "reachable", told, "warning")
        return
    took = time.monotonic() - started
    told = f"{constants.ENDPOINT} answered {status} in {took:.1f} s"
    yield Finding("hub", "reachable", told, "warning" if status >= 500 else "ok")


def model(settings: Settings, access: HubAccess | None = None) -> Iterator[Finding]:
    """Where the configured model is, or what it takes to get it."""
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
    refusals = []
    for source in resolved.sources:
        try:
            missing = missing_bytes(source, access=access)
        except EmbeddingError as error:
            refusals.append(error.message)
            continue
        todo = "it is converted" if settings.use_openvino else "torch opens it"
        what = (
            f"{missing / 1e6:,.1f} MB to download from {source}" if missing else f"{source} is here"
        )
        yield Finding("model", settings.model, f"{what}; then {todo}")
        return
    yield Finding("model", settings.model, "; ".join(refusals), "broken")


def _describe(bundle: Bundle) -> str:
    manifest = bundle.manifest
    towers = " and ".join(sorted(manifest.towers))
    size = f"{bundle.size / 1e6:,.1f} MB"
    return f"{towers}, {manifest.dimension} numbers, {manifest.precision}, {size}, {bundle.path}"


def effective(settings: Settings) -> Iterator[Finding]:
    """The settings that are not their defaults; what is secret is not told."""
    standard = Settings()
    for each in fields(Settings):
        value = getattr(settings, each.name)
        if value != getattr(standard, each.name):
            told = str(value) if each.repr else "set"
            yield Finding("settings", each.metadata["names"][0], told)


def cautions(settings: Settings) -> Iterator[Finding]:
    """What is allowed, and often a mistake."""
    for root in settings.media_roots:
        if not root.is_dir():
            told = f"{root} is not there: a video_file in it is a 404"
            yield Finding("settings", "EMBEDDING_MEDIA_ROOTS", told, "warning")
    if not settings.api_keys and not _is_local(settings.host):
        told = f"none, and {settings.host} listens to others: everybody may use the service"
        yield Finding("settings", "EMBEDDING_API_KEYS", told, "warning")


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def trial(settings: Settings) -> Iterator[Finding]:
    """Opening a model runs its self-test: two texts, and two pictures, that it must tell apart."""
    started = time.monotonic()
    try:
        with Engine.open(settings=settings) as engine:
            took = f"{time.monotonic() - started:.1f} s"
            info = engine.info
            told = f"in {took} on {info.device} in {info.inference}, fingerprint {info.fingerprint}"
            yield Finding("model", "opens", told)
    except EmbeddingError as error:
        yield Finding("model", "opens", error.message, "broken")
