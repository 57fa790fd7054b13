"""`mmes bundle`."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from multimodal_embedding_serving.cli.options import Json
from multimodal_embedding_serving.settings import Settings


class Action(StrEnum):
    EXPORT = "export"
    IMPORT = "import"


def bundle(
    action: Annotated[Action, typer.Argument(help="Into a file, or out of one.")],
    what: Annotated[str, typer.Argument(help="export: a model; import: the file.")],
    out: Annotated[Path | None, typer.Option(help="export: the file to write.")] = None,
    as_json: Json = False,
) -> None:
    """Carry a converted model to a machine without a network, as one file."""
    from multimodal_embedding_serving.bundles import archive as parcel
    from multimodal_embedding_serving.conversion import store as library

    if action is Action.IMPORT:
        found = parcel.unpack(Path(what), Settings.from_env().models_dir)
    else:
        settings = Settings.from_env(model=what)
        found = library.load_bundle(settings)
        name = found.manifest.model.replace("/", "--")
        target = out or Path(f"{name}-{found.manifest.precision}.mmes")
        parcel.pack(found, target, settings.models_dir)
        typer.echo(f"written: {target}", err=True)
    facts = library.describe(found)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        typer.echo(f"{name}: {value}")
