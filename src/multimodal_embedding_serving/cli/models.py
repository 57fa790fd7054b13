"""`mmes models`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from multimodal_embedding_serving.catalog import DEFAULT_MODEL, MODELS, ModelSpec
from multimodal_embedding_serving.cli.completion import complete_model
from multimodal_embedding_serving.cli.convert import convert
from multimodal_embedding_serving.cli.options import Json
from multimodal_embedding_serving.cli.reports import describe_lines
from multimodal_embedding_serving.errors import InvalidInput
from multimodal_embedding_serving.settings import Settings

HEAD = ("model", "pixels", "dim", "languages", "MB", "RAM", "license", "converted")


class Action(StrEnum):
    LIST = "list"
    PULL = "pull"
    REMOVE = "remove"


def models(
    action: Annotated[
        Action, typer.Argument(help="List models; download and convert one; or delete one.")
    ] = Action.LIST,
    model: Annotated[
        str | None,
        typer.Argument(help="Model to pull or remove.", autocompletion=complete_model),
    ] = None,
    as_json: Json = False,
    long: Annotated[
        bool, typer.Option("--long", help="List converted models with their accuracy reports.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete leftovers and models that no longer open.")
    ] = False,
) -> None:
    """List models with their sizes; download and convert one; or delete a converted one."""
    if action is Action.LIST:
        if model is not None:
            raise typer.BadParameter("'list' does not take a model; use `mmes models`")
        _list(as_json, long=long, prune=prune)
        return
    if model is None:
        raise typer.BadParameter(f"which model? mmes models {action} MODEL")
    if long or prune:
        raise typer.BadParameter(f"--long and --prune can't be used with '{action}'")
    if action is Action.PULL:
        convert(model, as_json=as_json)
    else:
        _remove(model, as_json)


def _list(as_json: bool, *, long: bool, prune: bool) -> None:
    settings = Settings.from_env()
    if prune:
        _prune(settings)
        if not as_json:
            return
    if long or prune:
        _print_bundles(settings, as_json)
    elif as_json:
        typer.echo(json.dumps([_facts(spec, settings) for spec in MODELS]))
    else:
        _print_catalog(settings)


# ── the catalog ──


def _print_catalog(settings: Settings) -> None:
    """Aligned columns. Lines are as long as they need to be, whatever the terminal's width: an id
    that was cut could neither be copied nor found with grep."""
    rows = [HEAD, *(_row(spec, settings) for spec in MODELS), *_other_rows(settings)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo(" ".join(cells).rstrip())


def _row(spec: ModelSpec, settings: Settings) -> tuple[str, ...]:
    mark = " (default)" if spec.id == DEFAULT_MODEL else ""
    size = ("?", "?") if spec.size is None else (str(spec.size.disk), str(spec.size.memory))
    return (
        spec.id + mark,
        str(spec.image_size or ""),
        str(spec.dimension),
        spec.languages,
        *size,
        spec.license,
        ", ".join(_converted(spec, settings)),
    )


def _other_rows(settings: Settings) -> Iterator[tuple[str, ...]]:
    """Converted models that the catalog does not list."""
    if not any((settings.models_dir / name).is_dir() for name in ("hub", "local")):
        return
    from multimodal_embedding_serving.conversion import store

    ids = {spec.id for spec in MODELS}
    for bundle in store.list_bundles(settings.models_dir):
        manifest = bundle.manifest
        if manifest.model not in ids:
            size = f"{bundle.size / 1e6:.0f}"
            license_ = manifest.licence or "?"
            row = ("", str(manifest.dimension), "?", size, "?", license_, manifest.precision)
            yield manifest.model, *row


def _converted(spec: ModelSpec, settings: Settings) -> list[str]:
    """The precisions that are ready to be served."""
    if not spec.repos:
        return [spec.precision]  # ships with the package
    if not (settings.models_dir / spec.family).is_dir():
        return []
    from multimodal_embedding_serving.conversion import store

    return store.converted_forms(settings.models_dir / spec.family / spec.name)


def _facts(spec: ModelSpec, settings: Settings) -> dict[str, Any]:
    size = spec.size
    return {
        "id": spec.id,
        "modalities": spec.modalities,
        "image_size": spec.image_size,
        "dimension": spec.dimension,
        "text_length": spec.text_length,
        "languages": spec.languages,
        "download_mb": size and size.download,
        "disk_mb": size and size.disk,
        "memory_mb": size and size.memory,
        "licence": spec.license,
        "repositories": spec.repos,
        "default": spec.id == DEFAULT_MODEL,
        "converted": _converted(spec, settings),
    }


# ── converted models ──


def _print_bundles(settings: Settings, as_json: bool) -> None:
    from multimodal_embedding_serving.conversion import store

    bundles = store.list_bundles(settings.models_dir)
    facts = [store.describe(bundle, settings) for bundle in bundles]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for each in facts:
        typer.echo(describe_lines(each) + "\n")
    if not facts:
        typer.echo(
            f"no model has been converted in {settings.models_dir}; `mmes models pull MODEL` "
            f"converts one ({DEFAULT_MODEL} ships with the package)",
            err=True,
        )


def _prune(settings: Settings) -> None:
    from multimodal_embedding_serving.conversion import store

    removed = store.prune(settings.models_dir)
    _report_removed(removed)
    if not removed:
        typer.echo("nothing to remove", err=True)


def _remove(name: str, as_json: bool) -> None:
    """Raises InvalidInput, UnknownModel, BundleError."""
    from multimodal_embedding_serving.conversion import store
    from multimodal_embedding_serving.conversion.resolve import resolve_model

    resolved = resolve_model(Settings.from_env(model=name))
    if resolved.bundle is not None:
        why = "ships with the package" if resolved.spec else "is a folder of yours; delete it there"
        raise InvalidInput(f"cannot remove {resolved.model}: it {why}")
    removed = store.remove(resolved.model_dir)
    if not removed:
        raise InvalidInput(
            f"{resolved.model} has not been converted here; `mmes models --long` lists what has"
        )
    if as_json:
        typer.echo(json.dumps({"removed": {str(path): size for path, size in removed.items()}}))
    else:
        _report_removed(removed)


def _report_removed(removed: Mapping[Path, int]) -> None:
    for folder, size in removed.items():
        typer.echo(f"removed {folder} ({size / 1e6:.0f} MB)", err=True)
