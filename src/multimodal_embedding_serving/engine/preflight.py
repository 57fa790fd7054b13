"""What can be known to fail before anything is downloaded, converted or listened on."""

from __future__ import annotations

import contextlib
import os
from importlib.util import find_spec
from pathlib import Path

from multimodal_embedding_serving.backends.openvino import lists_group
from multimodal_embedding_serving.conversion.calibration import require_nncf
from multimodal_embedding_serving.conversion.resolve import resolve_model
from multimodal_embedding_serving.conversion.store import find_bundle
from multimodal_embedding_serving.errors import BundleError, MissingExtra, SettingsError
from multimodal_embedding_serving.media.fetch import check_rules
from multimodal_embedding_serving.settings import Settings


def check_startup(settings: Settings) -> None:
    """Check names, hosts, extras, the device and folders, without the network or a conversion.

    Raises UnknownModel, CheckpointError, SettingsError, MissingExtra, BundleError.
    """
    check_rules(settings.allowed_hosts, settings.media_proxy)
    _check_folders(settings)
    if settings.token_ids == "cl100k" and find_spec("tiktoken") is None:  # noqa: S105
        raise MissingExtra("EMBEDDING_TOKEN_IDS=cl100k", "tiktoken")
    resolved = resolve_model(settings)
    if not settings.use_openvino:
        _check_torch(settings)
        return
    lists_group(settings.device)
    if settings.cache_dir is not None and settings.model_cache:
        _check_writable(settings.cache_dir, "EMBEDDING_OV_CACHE_DIR")
    if find_bundle(resolved, settings) is None:
        if settings.precision == "int8":
            require_nncf()
        _check_writable(resolved.model_dir, "EMBEDDING_OV_MODELS_DIR")


def _check_torch(settings: Settings) -> None:
    from multimodal_embedding_serving.backends.torch import choose_precision  # an extra

    choose_precision(settings)


def _check_folders(settings: Settings) -> None:
    """Files are not folders. A folder that does not exist yet is fine where it may come later."""
    named = [("EMBEDDING_OV_MODELS_DIR", settings.models_dir)]
    named += [("EMBEDDING_MEDIA_ROOTS", root) for root in settings.media_roots]
    samples = settings.calibration_dir
    try:
        for name, folder in named:
            if folder.exists() and not folder.is_dir():
                raise SettingsError(f"{name}: {folder} is a file; allowed: a folder")
        if samples is not None and not samples.is_dir():
            raise SettingsError(f"EMBEDDING_CALIBRATION_DIR: {samples} is not an existing folder")
    except OSError as error:  # a name that is too long, or a folder above that may not be read
        shown = str(error.filename)[:80]
        raise SettingsError(f"cannot look at {shown!r}: {error.strerror}") from None


def _check_writable(folder: Path, name: str) -> None:
    """Create the folder as a conversion would. Raises BundleError with the reason."""
    reason = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror
    else:
        if not os.access(folder, os.W_OK | os.X_OK):
            reason = "Permission denied"
    with contextlib.suppress(OSError):  # nothing but what was made here can be empty
        folder.rmdir()
    if reason is not None:
        raise BundleError(f"cannot write to {folder} ({reason}); set {name} to a writable folder")
