"""Options that several commands have, and the model that they ask for."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multimodal_embedding_serving.monitoring.progress import show_stages
from multimodal_embedding_serving.settings import Settings

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk import models

Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Catalog id, alias, hf:org/name, or a folder.")
]
Device = Annotated[str | None, typer.Option(help="CPU, GPU, NPU, AUTO, …")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
Server = Annotated[str | None, typer.Option(help="Ask the server at this URL instead.")]
ApiKey = Annotated[str | None, typer.Option(help="Sent to servers.")]
Frames = Annotated[
    int | None, typer.Option("--frames", min=1, help="Frames of each video, evenly spread.")
]
FramesPerSecond = Annotated[
    float | None, typer.Option("--fps", min=0.001, help="Frames a second of each video instead.")
]


class Kinds(StrEnum):
    """What is taken from folders."""

    text = "text"
    image = "image"
    video = "video"


@dataclass(frozen=True, slots=True)
class Asked:
    """The model that a command asks for, here or on a server, and the frames of videos."""

    settings: Settings
    server: str | None
    api_key: str | None
    segment: dict[str, Any]

    @property
    def recipe(self) -> str:
        """What vectors of videos depend on."""
        return json.dumps(self.segment) if self.segment else ""

    def open(self) -> Callable[[], Awaitable[models.Model]]:
        """Open a model of this process now; what is returned is to be awaited for a server's."""
        from multimodal_embedding_serving.bulk.models import LocalModel, RemoteModel
        from multimodal_embedding_serving.engine import Engine

        if self.server is not None:
            url = self.server
            return lambda: RemoteModel.connect(url, self.api_key, self.segment or None)
        with show_stages() as show:
            engine = Engine.open(settings=self.settings, progress=show)

        async def opened() -> models.Model:
            return LocalModel(engine, self.settings, self.segment)

        return opened


def ask(
    model: str | None = None,
    device: str | None = None,
    server: str | None = None,
    api_key: str | None = None,
    frames: int | None = None,
    fps: float | None = None,
) -> Asked:
    """Raises SettingsError."""
    named = {"num_frames": frames, "extraction_fps": fps}
    segment = {name: value for name, value in named.items() if value is not None}
    return Asked(Settings.from_env(model=model, device=device), server, api_key, segment)
