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
        bool, typer.Option("--long", help="The converted models, with accuracy reports.")
    ] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what nothing uses.")] = False,
) -> None:
    """List the models of the catalog, or with --long those that are converted on this machine."""
    if long or prune:
        _show_shelves(as_json, prune)
        return
    if as_json:
        typer.echo(json.dumps([_facts(spec) for spec in MODELS]))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "embeds", "pixels", "dimension", "tokens", "licence", box=None)
    for spec in MODELS:
        mark = " (default)" if spec.id == DEFAULT_MODEL else ""
        numbers = (str(spec.image_size or ""), str(spec.dimension), str(spec.text_length))
        table.add_row(spec.id + mark, ", ".join(spec.modalities), *numbers, spec.licence)
    Console().print(table)


def _facts(spec: ModelSpec) -> dict[str, Any]:
    return {
        "id": spec.id,
        "modalities": spec.modalities,
        "image_size": spec.image_size,
        "dimension": spec.dimension,
        "text_length": spec.text_length,
        "licence": spec.licence,
        "repositories": spec.repos,
        "default": spec.id == DEFAULT_MODEL,
    }


def _show_shelves(as_json: bool, prune: bool) -> None:
    from multimodal_embedding_serving.conversion import store as library

    settings = Settings.from_env()
    models_dir = settings.models_dir
    removed = library.prune(models_dir) if prune else {}
    for folder, size in removed.items():
        typer.echo(f"removed {folder} ({size / 1e6:.0f} MB)", err=True)
    facts = [library.describe(bundle, settings) for bundle in library.list_bundles(models_dir)]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for each in facts:
        typer.echo("\n".join(f"{name}: {value}" for name, value in each.items()) + "\n")
