"""The command `mmes`: serve, embed, models, convert, compare. Each calls one function.

Exit status: 0 done, 1 refused or failed (the reason is on stderr), 2 wrong usage or settings;
3 from `compare` where the two are not comparable.
"""

from __future__ import annotations

import json
import logging
import mimetypes
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from multimodal_embedding_serving.catalog import DEFAULT, MODELS, ModelSpec
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput, SettingsError
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.terminal import TerminalLog, show_stages

app = typer.Typer(
    name="mmes",
    help="Text, images and video as vectors in one space.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Catalog id, alias, hf:org/name, or a folder.")
]
Device = Annotated[str | None, typer.Option(help="CPU, GPU, NPU, AUTO, …")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]


def main() -> None:
    """Run the command line; a refusal is a message and a status, never a stack."""
    try:
        app()
    except EmbeddingError as error:
        typer.echo(f"mmes: {error}", err=True)
        sys.exit(2 if isinstance(error, SettingsError) else 1)


@app.command()
def serve(
    model: Model = None,
    device: Device = None,
    host: Annotated[str | None, typer.Option(help="Bind address.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free one.")] = None,
    root_path: Annotated[str, typer.Option(help="Where a proxy mounts the service.")] = "",
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate file.")] = None,
    private_key: Annotated[Path | None, typer.Option(help="TLS key file.")] = None,
) -> None:
    """Serve the model over HTTP until SIGTERM or Ctrl-C. Settings come from the environment."""
    from multimodal_embedding_serving.api.server import Listening
    from multimodal_embedding_serving.api.server import serve as run

    settings = Settings.from_env(model=model, device=device, host=host, port=port)
    set_up_logging()
    listening = Listening(root_path=root_path, certificate=certificate, private_key=private_key)
    try:
        status = run(settings, listening)
    except SystemExit as stop:  # uvicorn's way out when it can't bind
        status = 1 if stop.code else 0
    leave(status)


@app.command()
def embed(
    items: Annotated[list[str], typer.Argument(help="Texts, and paths of images and videos.")],
    model: Model = None,
    device: Device = None,
    server: Annotated[str | None, typer.Option(help="Ask this server instead.")] = None,
) -> None:
    """Embed texts, images and videos: a JSON object per vector on stdout, in order."""
    settings = Settings.from_env(model=model, device=device)
    for line in _embedded_by_server(items, server) if server else _embedded(items, settings):
        typer.echo(json.dumps(line))


@app.command()
def models(
    as_json: Json = False,
    long: Annotated[bool, typer.Option(help="The converted models, with certificates.")] = False,
    prune: Annotated[bool, typer.Option(help="Remove what nothing uses.")] = False,
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
        mark = " (default)" if spec.id == DEFAULT else ""
        numbers = (str(spec.image_size or ""), str(spec.dimension), str(spec.text_length))
        table.add_row(spec.id + mark, ", ".join(spec.modalities), *numbers, spec.licence)
    Console().print(table)


@app.command()
def convert(
    model: Annotated[str, typer.Argument(help="Catalog id, alias, hf:org/name, or a folder.")],
    precision: Annotated[
        str | None, typer.Option(help="How weights are stored: f32, f16, int8-weights, …")
    ] = None,
    force: Annotated[bool, typer.Option(help="Convert what is converted already.")] = False,
) -> None:
    """Download a model and convert it, so that the server starts at once."""
    from multimodal_embedding_serving.library import describe, open_bundle

    settings = Settings.from_env(model=model, precision=precision)
    set_up_logging()
    with show_stages() as show:
        bundle = open_bundle(settings, show, anew=force)
    for name, value in describe(bundle).items():
        typer.echo(f"{name}: {value}")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="A bundle's folder, a model, or a server's URL.")],
    second: Annotated[str, typer.Argument(help="The same: what the first is compared to.")],
    api_key: Annotated[str | None, typer.Option(help="Sent to servers.")] = None,
    as_json: Json = False,
) -> None:
    """Tell whether two models' vectors may stand in one index: 0 yes, 3 no."""
    from multimodal_embedding_serving.compare import compare as measure

    with show_stages() as show:
        found = measure(first, second, Settings.from_env(), api_key=api_key, stage=show)
    typer.echo(json.dumps(found.facts()) if as_json else found.report())
    raise typer.Exit(0 if found.comparable else 3)


def leave(status: int) -> NoReturn:
    """End the process, even while a thread is still opening a model.

    That thread is inside OpenVINO and can't be interrupted: an ordinary exit would take the
    library down under it, and end in an abort.
    """
    logging.shutdown()
    if any(thread.name == "opening" for thread in threading.enumerate()):
        os._exit(status)
    sys.exit(status)


def set_up_logging() -> None:
    """Log lines on stderr: what uvicorn says of its address, and what the service says."""
    form = "%(asctime)s %(levelname)-7s %(message)s"
    logging.basicConfig(
        level=logging.INFO, format=form, datefmt="%H:%M:%S", handlers=[TerminalLog()]
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it logs the URLs that it fetches


def kind_of(item: str) -> str:
    """text, image or video: a file that exists is what its name says, all else is text.

    Raises InvalidInput for a file of another kind.
    """
    if len(item) > 1000 or "\0" in item or not Path(item).is_file():
        return "text"
    kind = (mimetypes.guess_type(item)[0] or "").partition("/")[0]
    if kind not in ("image", "video"):
        raise InvalidInput(f"{item} is neither an image nor a video by its name")
    return kind


def _embedded(items: Sequence[str], settings: Settings) -> Iterator[dict[str, Any]]:
    from multimodal_embedding_serving.engine import Engine

    kinds = [kind_of(item) for item in items]
    with show_stages() as show:
        opened = Engine.open(settings=settings, progress=show)
    with opened as engine:
        for item, kind in zip(items, kinds, strict=True):
            if kind == "text":
                yield _line(item, kind, engine.embed(texts=[item])[0])
            elif kind == "image":
                yield _line(item, kind, engine.embed(images=Path(item))[0])
            else:
                for number, vector in enumerate(engine.embed(video=Path(item))):
                    yield _line(item, kind, vector, vector_number=number)


def _embedded_by_server(items: Sequence[str], server: str) -> Iterator[dict[str, Any]]:
    from multimodal_embedding_serving.client import Client

    kinds = [kind_of(item) for item in items]
    with Client(server) as client:
        for item, kind in zip(items, kinds, strict=True):
            if kind == "text":
                yield _line(item, kind, client.embed_texts([item])[0])
            elif kind == "image":
                yield _line(item, kind, client.embed_images(Path(item))[0])
            else:
                answer = client.embed_video(Path(item))
                for frame, vector in zip(answer.frames, answer.vectors, strict=True):
                    where = {"frame": frame.index, "timestamp": frame.timestamp}
                    yield _line(item, kind, vector, **where)


def _line(item: str, kind: str, vector: Any, **where: float) -> dict[str, Any]:
    return {"input": item, "kind": kind, **where, "embedding": vector.tolist()}


def _facts(spec: ModelSpec) -> dict[str, Any]:
    return {
        "id": spec.id,
        "modalities": spec.modalities,
        "image_size": spec.image_size,
        "dimension": spec.dimension,
        "text_length": spec.text_length,
        "licence": spec.licence,
        "repositories": spec.repos,
        "default": spec.id == DEFAULT,
    }


def _show_shelves(as_json: bool, prune: bool) -> None:
    from multimodal_embedding_serving import library

    models_dir = Settings.from_env().models_dir
    removed = library.prune(models_dir) if prune else {}
    for folder, size in removed.items():
        typer.echo(f"removed {folder} ({size / 1e6:.0f} MB)", err=True)
    facts = [library.describe(bundle) for bundle in library.list_bundles(models_dir)]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for each in facts:
        typer.echo("\n".join(f"{name}: {value}" for name, value in each.items()) + "\n")
