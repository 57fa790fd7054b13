"""`mmes tune`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from multimodal_embedding_serving.cli.options import Device, Json, Model
from multimodal_embedding_serving.errors import SettingsError
from multimodal_embedding_serving.monitoring.progress import show_stages
from multimodal_embedding_serving.settings import Settings


def tune(
    model: Model = None,
    device: Device = None,
    seconds: Annotated[float, typer.Option(min=0, help="How long to measure.")] = 30,
    as_json: Json = False,
) -> None:
    """Measure how this machine runs the model best; serving uses it from its next start on."""
    from multimodal_embedding_serving.backends.tuning import can_tune
    from multimodal_embedding_serving.backends.tuning import tune as measure
    from multimodal_embedding_serving.conversion.serving_form import choose_form
    from multimodal_embedding_serving.conversion.store import load_bundle

    settings = Settings.from_env(model=model, device=device)
    if not can_tune(settings):
        raise SettingsError("there is nothing to tune: torch and the NPU run a graph in one way")
    with show_stages() as show:
        bundle = load_bundle(settings, show)
        served = choose_form(bundle, settings, show).settings
        best = measure(bundle, served, seconds=seconds, progress=show)
    if as_json:
        typer.echo(json.dumps({modality: asdict(way) for modality, way in best.items()}))
        return
    for modality in bundle.manifest.towers:
        typer.echo(f"{modality}: {best.get(modality, 'not measured in time: give more --seconds')}")
