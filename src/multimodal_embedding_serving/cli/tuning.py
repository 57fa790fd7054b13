"""`mmes tune`."""

from __future__ import annotations

from typing import Annotated

import typer

from multimodal_embedding_serving.cli.options import Device, Model
from multimodal_embedding_serving.errors import SettingsError
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.terminal import show_stages


def tune(
    model: Model = None,
    device: Device = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long to measure.")] = 30,
) -> None:
    """Measure how this machine runs the model best; serving uses it from its next start on."""
    from multimodal_embedding_serving.library import open_bundle
    from multimodal_embedding_serving.tune import can_tune
    from multimodal_embedding_serving.tune import tune as measure

    settings = Settings.from_env(model=model, device=device)
    if not can_tune(settings):
        raise SettingsError("there is nothing to tune: torch and the NPU run a graph in one way")
    with show_stages() as show:
        bundle = open_bundle(settings, show)
        best = measure(bundle, settings, seconds=seconds, stage=show)
    for modality in bundle.manifest.towers:
        typer.echo(f"{modality}: {best.get(modality, 'not measured in time: give more --seconds')}")
