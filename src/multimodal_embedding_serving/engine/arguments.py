"""How the arguments of `Engine.open` become settings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from multimodal_embedding_serving.errors import BundleError, SettingsError
from multimodal_embedding_serving.sdk.arguments import reject_unknown, shorten
from multimodal_embedding_serving.settings import Settings

OTHER_NAMES = {
    "use_ov": "use_openvino",
    "ov_models_dir": "models_dir",
    "model_id": "model",
    "model_name": "model",
    "batch_size": "image_batch",
    "threads": "num_threads",
}
"""What callers of Intel's SDK and of other libraries write."""


def read_settings(
    model: str | None, settings: Settings | None, overrides: Mapping[str, Any]
) -> Settings:
    """Raises TypeError for an unknown argument, SettingsError for a value that is not allowed."""
    if settings is not None:
        if not isinstance(settings, Settings):
            raise TypeError(f"settings must be a Settings, not {type(settings).__name__}")
        both = [*(["model"] if model is not None else []), *overrides]
        if both:
            raise TypeError(
                f"settings= and {both[0]}= exclude each other; pass {both[0]} to "
                f"Settings.from_env({both[0]}=…)"
            )
        return settings
    for name in overrides:
        if name in OTHER_NAMES:
            raise TypeError(f"Engine.open() has no argument {name!r}; use {OTHER_NAMES[name]!r}")
    known = {each.name: each for each in fields(Settings)}
    reject_unknown("Engine.open()", overrides, known)
    values = {"model": model, **overrides}
    return Settings.from_env(**{name: _read(known[name], value) for name, value in values.items()})


@contextmanager
def argument_names(overrides: Mapping[str, Any]) -> Iterator[None]:
    """Name the arguments of `Engine.open` in errors that name their environment variables."""
    try:
        yield
    except (SettingsError, BundleError) as error:
        for each in fields(Settings):
            for variable in each.metadata["names"] if each.name in overrides else ():
                error.message = error.message.replace(f"{variable}=", f"{each.name}=")
                if each.name.endswith("_dir"):
                    folder = f"{each.name}={str(overrides[each.name])!r}"
                    error.message = error.message.replace(variable, folder)
        raise


def _read(field: Field[Any], value: Any) -> Any:
    """A value as from_env takes it: what it would not check itself becomes a string."""
    if value is None or value == field.default:
        return value
    if isinstance(field.default, tuple):
        if isinstance(value, list | tuple | set | frozenset):
            separator = os.pathsep if field.name == "media_roots" else ","
            return separator.join(map(str, value)) or ()
    elif isinstance(value, Path) or _both_numbers(_example(field), value):
        return str(value)
    if isinstance(value, str):
        if not value.strip():
            raise SettingsError(f"{field.name}={value!r} is empty; leave it out for the default")
        return value
    raise SettingsError(
        f"{field.name}={shorten(value)} is not allowed: {_expected(field)} is expected, "
        f"not {type(value).__name__}"
    )


def _example(field: Field[Any]) -> Any:
    """The default, or 0 for a number whose default is None."""
    return 0 if field.default is None and str(field.type).startswith("int") else field.default


def _both_numbers(first: Any, second: Any) -> bool:
    """Whether both are numbers, or both are booleans."""
    number = isinstance(first, int | float) and isinstance(second, int | float)
    return number and isinstance(first, bool) == isinstance(second, bool)


def _expected(field: Field[Any]) -> str:
    if isinstance(field.default, bool):
        return "True or False"
    if isinstance(_example(field), int | float):
        return "a number"
    return "a list" if isinstance(field.default, tuple) else "a string"
