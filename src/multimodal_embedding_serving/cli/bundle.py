"""`mmes bundle`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from multimodal_embedding_serving.cli.completion import complete_model
from multimodal_embedding_serving.cli.options import Json
from multimodal_embedding_serving.settings import Settings


class Action(StrEnum):
    EXPORT = "export"
    IMPORT = "import"


def bundle(
    action: Annotated[Action, typer.Argument(help="Write a model to a file, or read it from one.")],
    model_or_file: Annotated[
        str,
        typer.Argument(help="Model to export, or file to import.", autocompletion=complete_model),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to export to; default: MODEL-PRECISION.mmes.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export or import a converted model as a single file (for offline machines)."""
    from multimodal_embedding_serving.bundles import archive
    from multimodal_embedding_serving.conversion import store

    if action is Action.IMPORT:
        model = archive.unpack(Path(model_or_file), Settings.from_env().models_dir)
    else:
        settings = Settings.from_env(model=model_or_file)
        model = store.load_bundle(settings)
        name = model.manifest.model.replace("/", "--")
        target = out or Path(f"{name}-{model.manifest.precision}.mmes")
        archive.pack(model, target, settings.models_dir)
        typer.echo(f"wrote {target}", err=True)
    facts = store.describe(model)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        typer.echo(f"{name}: {value}")
