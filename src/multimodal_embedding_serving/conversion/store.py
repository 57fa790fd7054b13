"""The models folder: finds the bundle that a name refers to, or converts it first.

`<models>/<family>/<name>/<precision>` holds a catalog row's bundle,
`<models>/hub/<org>--<name>/…` and `<models>/local/<folder>-<hash>/…` those of other checkpoints.
An existing bundle is served without network access. One process converts; others that need the
same bundle wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import Timeout

from multimodal_embedding_serving.bundles.bundle import (
    COMPILED,
    LOCK,
    MANIFEST,
    STORED,
    TEMPORARY,
    Bundle,
    locked,
    remove_leftovers,
)
from multimodal_embedding_serving.bundles.torch_model import TorchModel
from multimodal_embedding_serving.catalog import ModelSpec
from multimodal_embedding_serving.checkpoints.sources import HubAccess
from multimodal_embedding_serving.conversion.convert import convert
from multimodal_embedding_serving.conversion.probes import upgrade
from multimodal_embedding_serving.conversion.resolve import ResolvedModel, resolve_model
from multimodal_embedding_serving.conversion.serving_form import find_notices
from multimodal_embedding_serving.conversion.torch_model import load_torch_model
from multimodal_embedding_serving.errors import BundleError
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Progress, ignore_progress

log = logging.getLogger(__name__)

BACKGROUND_BYTES = 2 * 10**9
"""Only a larger bundle is checked in the background: a smaller one takes under a second."""
REINSTALL = "reinstall multimodal-embedding-serving"


def load_model(
    settings: Settings, progress: Progress = ignore_progress, access: HubAccess | None = None
) -> Bundle | TorchModel:
    """The model that the settings select: a bundle for OpenVINO, the checkpoint itself for torch.

    Raises what `load_bundle` or `load_torch_model` raises.
    """
    if settings.use_openvino:
        return upgrade(load_bundle(settings, progress, access=access))
    return load_torch_model(settings, progress, access)


def load_bundle(
    settings: Settings,
    progress: Progress = ignore_progress,
    *,
    force: bool = False,
    access: HubAccess | None = None,
) -> Bundle:
    """The bundle of the model that the settings name, converted first where necessary.

    `force` converts again even if there is a bundle. Raises UnknownModel, FamilyNotBuilt,
    CheckpointError, RemoteFailed, BundleError.
    """
    resolved = resolve_model(settings)
    if resolved.bundle is not None:
        return open_ready(resolved, resolved.bundle, settings)
    if not force and (bundle := find_converted(resolved, settings)):
        _remove_leftovers_unless_in_use(resolved.model_dir)
        return bundle
    with conversion_lock(resolved.model_dir, progress):
        remove_leftovers(resolved.model_dir)
        # Another process may have converted the model while this one waited for the lock.
        bundle = None if force else find_converted(resolved, settings)
        return bundle or convert(resolved, settings, progress, access)


def _remove_leftovers_unless_in_use(model_dir: Path) -> None:
    """A folder that may only be read, or in which another process is converting, stays as it is."""
    if any(model_dir.glob(f"{TEMPORARY}*")):
        with contextlib.suppress(OSError, Timeout), locked(model_dir / LOCK).acquire(timeout=0):
            remove_leftovers(model_dir)


def find_bundle(resolved: ResolvedModel, settings: Settings) -> Bundle | None:
    """The local bundle that serves these settings, or None. Raises BundleError."""
    if resolved.bundle is not None:
        return open_ready(resolved, resolved.bundle, settings)
    return find_converted(resolved, settings)


def find_converted(resolved: ResolvedModel, settings: Settings) -> Bundle | None:
    """A bundle in the model's folder that serves these settings, or None if none is whole."""
    acceptable = _acceptable(settings, resolved.spec)
    fallbacks = [] if settings.precision in STORED else ["f16", "f32"]
    for precision in dict.fromkeys([*acceptable, *fallbacks]):
        folder = resolved.model_dir / precision
        if (folder / MANIFEST).is_file():
            try:
                bundle = Bundle.load(folder)
                if precision in acceptable or bundle.manifest.fallback_from in acceptable:
                    check_files(bundle, settings)
                    return bundle
            except BundleError as error:
                log.warning("%s; converting it again", error.message)
    return None


def open_ready(resolved: ResolvedModel, folder: Path, settings: Settings) -> Bundle:
    """A bundle that no conversion replaces. Raises BundleError, which says what to do instead."""
    try:
        bundle = Bundle.load(folder)
        check_files(bundle, settings)
    except BundleError as error:
        shipped = resolved.spec is not None
        remedy = REINSTALL if shipped else "copy or convert the model again"
        raise BundleError(f"{error.message}; {remedy}") from None
    return bundle


def check_files(bundle: Bundle, settings: Settings) -> None:
    """Compare a bundle's files with its manifest, as EMBEDDING_VERIFY says.

    Weights that are to be checked in the background are left out. Raises BundleError.
    """
    if settings.verify == "off":
        log.warning(
            "EMBEDDING_VERIFY=off: the files of %s are used unchecked", bundle.manifest.model
        )
        return
    deferred = weights_to_check_later(bundle, settings)
    bundle.check([name for name in bundle.manifest.files if name not in deferred])


def weights_to_check_later(bundle: Bundle, settings: Settings) -> Collection[str]:
    """The files that EMBEDDING_VERIFY=background checks once the model is open."""
    if settings.verify != "background" or bundle.size <= BACKGROUND_BYTES:
        return ()
    return {bundle.weights(modality).name for modality in bundle.manifest.towers}


@contextlib.contextmanager
def conversion_lock(model_dir: Path, progress: Progress = ignore_progress) -> Iterator[None]:
    """Hold the lock of a model's folder; wait where another process does. Raises BundleError."""
    try:
        lock = locked(model_dir / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress("waiting for another process that is converting this model", 0.0)
            lock.acquire()
    except OSError as error:
        log.error("cannot write to %s: %s", model_dir, error.strerror)
        raise BundleError(  # clients see this message, and may not see paths
            f"cannot write to the models folder EMBEDDING_OV_MODELS_DIR ({error.strerror}); set it "
            "to a writable folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def list_bundles(models: Path) -> Iterator[Bundle]:
    """Every bundle in a models folder that opens, in order of path."""
    for manifest in sorted(models.glob(f"*/*/*/{MANIFEST}")):
        if not manifest.parent.name.startswith(TEMPORARY):
            try:
                yield Bundle.load(manifest.parent)
            except BundleError as error:
                log.warning("%s", error.message)


def describe(bundle: Bundle, settings: Settings | None = None) -> dict[str, Any]:
    """A bundle's facts and accuracy figures, for `mmes models --long`.

    With `settings`, the notices include those of this machine's accuracy check.
    """
    manifest = bundle.manifest
    return {
        "model": manifest.model,
        "precision": manifest.precision,
        "megabytes": round(bundle.size / 1e6),
        "fingerprint": manifest.fingerprint,
        "parity": {
            name: manifest.parity[name]["minimum"]
            for name in manifest.towers
            if name in manifest.parity
        },
        "repository": manifest.source.get("repo"),
        "revision": manifest.source.get("revision"),
        "licence": manifest.licence,
        "notice": manifest.notice,
        "notices": list(find_notices(bundle, settings or Settings())),
        "created": manifest.created,
        "folder": str(bundle.path),
    }


def remove(model_dir: Path) -> Mapping[Path, int]:
    """Remove the converted forms of one model -> each removed folder and its size in bytes.

    What no conversion has created stays. Raises BundleError while another process converts it.
    """
    if not model_dir.is_dir():
        return {}
    removed: dict[Path, int] = {}
    try:
        with locked(model_dir / LOCK).acquire(timeout=0):
            for folder in sorted(path for path in model_dir.iterdir() if path.is_dir()):
                if folder.name in (*STORED, COMPILED) or folder.name.startswith(TEMPORARY):
                    removed[folder] = _folder_size(folder)
                    shutil.rmtree(folder)
    except Timeout:
        raise BundleError(
            f"another process is converting {model_dir.name}; try again later"
        ) from None
    for path in (model_dir / f"{LOCK}.lock", model_dir / LOCK):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other contents stay, and so does the folder
        model_dir.rmdir()
    return removed


def _folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def converted_forms(model_dir: Path) -> list[str]:
    """The stored precisions of a model's folder, without opening them."""
    return [name for name in STORED if (model_dir / name / MANIFEST).is_file()]


def prune(models: Path) -> Mapping[Path, int]:
    """Remove unused folders -> each removed folder and its size in bytes.

    Unused are: leftovers of killed conversions, bundles that no longer open, and compiled graphs
    whose bundle is gone. Models being converted are skipped, and so is every folder that no
    conversion created: the setting may name a folder with other contents too.
    """
    removed: dict[Path, int] = {}
    for model_dir in sorted(lock.parent for lock in models.glob(f"*/*/{LOCK}.lock")):
        try:
            with locked(model_dir / LOCK).acquire(timeout=0):
                for folder in _unused(model_dir):
                    removed[folder] = _folder_size(folder)
                    shutil.rmtree(folder, ignore_errors=True)
        except Timeout:
            log.warning("skipping %s: another process is converting it", model_dir.name)
    return removed


def _unused(model_dir: Path) -> list[Path]:
    unused, bundles = [], 0
    for folder in sorted(path for path in model_dir.iterdir() if path.is_dir()):
        try:
            if folder.name.startswith(TEMPORARY):
                unused.append(folder)
            elif folder.name in STORED and Bundle.load(folder):
                bundles += 1
        except BundleError:
            unused.append(folder)
    compiled = model_dir / COMPILED
    return unused if bundles or not compiled.is_dir() else [*unused, compiled]


def _acceptable(settings: Settings, spec: ModelSpec | None) -> list[str]:
    """The stored precisions that serve these settings, in order of preference."""
    if settings.precision in STORED:
        return [settings.precision]
    return [spec.precision] if spec else ["f16", "int8-weights"]
