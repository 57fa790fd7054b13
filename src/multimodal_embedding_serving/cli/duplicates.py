"""`mmes duplicates`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multimodal_embedding_serving.cli.options import (
    ApiKey,
    Device,
    Frames,
    FramesPerSecond,
    Json,
    Model,
    ModelOptions,
    Server,
    model_options,
)
from multimodal_embedding_serving.cli.reports import count_of, progress, report_failures
from multimodal_embedding_serving.monitoring.logs import set_up_logging
from multimodal_embedding_serving.monitoring.progress import show_work

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk.duplicates import NamedVectors, Similar
    from multimodal_embedding_serving.bulk.items import Kind
    from multimodal_embedding_serving.bulk.job import Tally

Source = Annotated[
    Path,
    typer.Argument(
        help="Folder, including subfolders, or a vector file that `mmes embed` wrote (.npy, "
        ".jsonl, .parquet)."
    ),
]
Minimum = Annotated[
    float,
    typer.Option("--min", min=-1, max=1, help="Lowest similarity (cosine) of near-duplicates."),
]


def duplicates(
    source: Source = Path(),
    minimum: Minimum = 0.95,
    frames: Frames = None,
    fps: FramesPerSecond = None,
    model: Model = None,
    device: Device = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Find near-duplicates in a folder (indexes new files only) or a vector file."""
    from multimodal_embedding_serving.bulk.duplicates import read_vectors

    if source.is_dir():
        options = model_options(model, device, server, api_key, frames, fps)
        set_up_logging(options.settings.log_format, options.settings.log_level)
        tally, vectors = _index(source, options)
        if tally.errors:
            report_failures(tally.reasons, tally.errors_file)
    else:
        unused = {"--frames": frames, "--fps": fps, "--model": model, "--device": device}
        unused |= {"--server": server, "--api-key": api_key}
        for name, value in unused.items():
            if value is not None:
                raise typer.BadParameter(f"{name} has no effect on a vector file; leave it out")
        vectors = read_vectors(source)
    _print(vectors, minimum, as_json=as_json)


def _index(folder: Path, options: ModelOptions) -> tuple[Tally, NamedVectors]:
    """Update the search index of a folder -> what that did, and its vectors."""
    from multimodal_embedding_serving.bulk.duplicates import read_vectors
    from multimodal_embedding_serving.bulk.search import Index

    async def renew() -> tuple[Tally, NamedVectors]:
        model = options.open_model()
        try:
            kind: Kind = "image" if "image" in model.identity.kinds else "text"
            place = options.settings.search_dir
            index = Index(folder, place, model, options.recipe, kind)
            tally = await index.renew(lambda tally, total: show(progress(tally, total)))
            return tally, read_vectors(index.file)
        finally:
            await model.aclose()

    with show_work("indexing") as show:
        return asyncio.run(renew())


def _print(vectors: NamedVectors, minimum: float, *, as_json: bool) -> None:
    groups = vectors.groups(minimum)
    compared = count_of(len(vectors.paths), "file")
    if as_json:
        shown = [[asdict(each) for each in group] for group in groups]
        typer.echo(json.dumps({"groups": shown, "compared": len(vectors.paths)}))
        return
    for group in groups:
        _print_group(group)
    similar = sum(map(len, groups)) - len(groups)
    verb = "is a near-duplicate" if similar == 1 else "are near-duplicates"
    found = f"{count_of(similar, 'file')} {verb} of another" if groups else "no near-duplicates"
    typer.echo(f"{found}, similarity {minimum:g} or more (--min); compared {compared}", err=True)


def _print_group(group: Sequence[Similar]) -> None:
    """The first file, and below it those that are like it."""
    here = Path.cwd()
    for place, each in enumerate(group):
        path = Path(each.path)
        name = str(path.relative_to(here)) if path.is_relative_to(here) else each.path
        name = " ".join(name.split("\n"))  # a text may have several lines
        typer.echo(name if place == 0 else f"{each.similarity:6.3f}  {name}")
