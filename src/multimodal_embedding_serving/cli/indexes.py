"""`mmes indexes`."""

from __future__ import annotations

import json
import shutil
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multimodal_embedding_serving.cli.options import Json
from multimodal_embedding_serving.errors import NotFound
from multimodal_embedding_serving.settings import Settings

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk.search import StoredIndex


class Action(StrEnum):
    LIST = "list"
    REMOVE = "remove"


def indexes(
    action: Annotated[
        Action, typer.Argument(help="List the indexes, or delete those of one folder.")
    ] = Action.LIST,
    folder: Annotated[
        Path | None,
        typer.Argument(help="The folder that was searched, or the index itself, as listed."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the vectors that `mmes search` keeps of folders, or delete them."""
    from multimodal_embedding_serving.bulk.search import list_indexes

    if (folder is None) != (action is Action.LIST):
        raise typer.BadParameter("use `mmes indexes`, or `mmes indexes remove FOLDER`")
    selected = list(list_indexes(Settings.from_env().search_dir))
    if folder is not None:
        selected = _of(folder, selected)
        for each in selected:
            shutil.rmtree(each.place)
    if as_json:
        typer.echo(json.dumps([_facts(each) for each in selected]))
        return
    for each in selected:
        what = f"{each.folder or 'unknown folder'}, {each.model or 'unknown model'}"
        typer.echo(f"{each.bytes / 1e6:8.1f} MB  {what}  {each.place}")


def _of(folder: Path, stored: list[StoredIndex]) -> list[StoredIndex]:
    """The indexes of a folder. Raises NotFound."""
    from multimodal_embedding_serving.bulk.items import absolute

    place = absolute(folder)
    found = [each for each in stored if place in (each.folder, absolute(each.place))]
    if not found:
        raise NotFound(f"{folder}: has no search index; `mmes indexes` lists those that exist")
    return found


def _facts(each: StoredIndex) -> dict[str, object]:
    return {
        "folder": each.folder,
        "model": each.model,
        "bytes": each.bytes,
        "index": str(each.place),
    }
