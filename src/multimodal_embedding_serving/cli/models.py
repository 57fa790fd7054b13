"""`mmes models`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from multimodal_embedding_serving.catalog import DEFAULT_MODEL, MODELS, ModelSpec
from multimodal_embedding_serving.cli.options import Json
from multimodal_embedding_serving.settings import Settings


def models(
    as_json: Json = False,
    long: Annotated[
        bool, typer.Option("--long", help="List converted models with their accuracy reports.")
    ] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete leftovers and unusable models; implies --long.")
    ] = False,
) -> None:
    """List the models of the catalog, or those converted on this machine (--long)."""
    if long or prune:
        _print_bundles(as_json, prune)
    elif as_json:
        typer.echo(json.dumps([_facts(spec) for spec in MODELS]))
    else:
        _print_catalog()


def _print_catalog() -> None:
    """Aligned columns. Lines are as long as they need to be, whatever the terminal's width: an id
    that was cut could neither be copied nor found with grep."""
    rows = [("model", "inputs", "pixels", "dim", "tokens", "license"), *map(_row, MODELS)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        typer.echo(" ".join(cells).rstrip())


def _row(spec: ModelSpec) -> tuple[str, ...]:
    mark = " (default)" if spec.id == DEFAULT_MODEL else ""
    numbers = (str(spec.image_size or ""), str(spec.dimension), str(spec.text_length))
    return spec.id + mark, ", ".join(spec.modalities), *numbers, spec.license


def _facts(spec: ModelSpec) -> dict[str, Any]:
    return {
        "id": spec.id,
        "modalities": spec.modalities,
        "image_size": spec.image_size,
        "dimension": spec.dimension,
        "text_length": spec.text_length,
        "licence": spec.license,
        "repositories": spec.repos,
        "default": spec.id == DEFAULT_MODEL,
    }


def _print_bundles(as_json: bool, prune: bool) -> None:
    from multimodal_embedding_serving.conversion import store

    settings = Settings.from_env()
    models_dir = settings.models_dir
    removed = store.prune(models_dir) if prune else {}
    for folder, size in removed.items():
        typer.echo(f"removed {folder} ({size / 1e6:.0f} MB)", err=True)
    facts = [store.describe(bundle, settings) for bundle in store.list_bundles(models_dir)]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for each in facts:
        typer.echo("\n".join(f"{name}: {value}" for name, value in each.items()) + "\n")
