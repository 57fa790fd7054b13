"""`mmes embed`."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from multimodal_embedding_serving.cli.options import Device, Model
from multimodal_embedding_serving.errors import InvalidInput
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.terminal import show_stages


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
