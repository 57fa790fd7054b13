"""Options that several commands share, and the model that they select."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from multimodal_embedding_serving.cli.completion import complete_model
from multimodal_embedding_serving.monitoring.progress import show_stages
from multimodal_embedding_serving.settings import Settings

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk import models

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Model: catalog id or alias, hf:org/name, or a folder.",
        autocompletion=complete_model,
    ),
]
Device = Annotated[str | None, typer.Option(help="Device to run on: CPU, GPU, NPU, AUTO, …")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Server = Annotated[
    str | None, typer.Option(help="URL of a server to use instead of loading the model here.")
]
ApiKey = Annotated[str | None, typer.Option(help="API key for --server.")]
Frames = Annotated[
    int | None,
    typer.Option(
        "--frames",
        min=1,
        help="Frames to sample from a video, evenly spaced; default: 64 (DEFAULT_NUM_FRAMES).",
    ),
]
FramesPerSecond = Annotated[
    float | None,
    typer.Option("--fps", min=0.001, help="Frames to sample per second, instead of --frames."),
]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The model to use, in this process or on a server, and which frames of a video to sample."""

    settings: Settings
    server: str | None
    api_key: str | None
    segment: dict[str, Any]
    """In the form of `segment_config`; empty for the settings' defaults."""

    @property
    def recipe(self) -> str:
        """What the vectors of videos depend on besides the model."""
        return json.dumps(self.segment) if self.segment else ""

    def open_model(self) -> models.Model:
        """Open the model in this process, with a progress bar, or connect to the server.

        Blocks. Raises EmbeddingError.
        """
        from multimodal_embedding_serving.bulk.models import LocalModel, RemoteModel
        from multimodal_embedding_serving.engine import Engine

        if self.server is not None:
            return RemoteModel.connect(self.server, self.api_key, self.segment or None)
        with show_stages() as show:
            engine = Engine.open(settings=self.settings, progress=show)
        return LocalModel(engine, self.settings, self.segment)


def model_options(
    model: str | None = None,
    device: str | None = None,
    server: str | None = None,
    api_key: str | None = None,
    frames: int | None = None,
    fps: float | None = None,
) -> ModelOptions:
    """Raises SettingsError."""
    sampling = {"num_frames": frames, "extraction_fps": fps}
    segment = {name: value for name, value in sampling.items() if value is not None}
    return ModelOptions(Settings.from_env(model=model, device=device), server, api_key, segment)
