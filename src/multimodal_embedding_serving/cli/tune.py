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
    seconds: Annotated[float, typer.Option(min=0, help="Time limit in seconds.")] = 30,
    as_json: Json = False,
) -> None:
    """Benchmark runtime settings for this machine and save the best for `mmes serve`."""
    from multimodal_embedding_serving.backends.tuning import can_tune
    from multimodal_embedding_serving.backends.tuning import tune as measure
    from multimodal_embedding_serving.conversion.serving_form import choose_form
    from multimodal_embedding_serving.conversion.store import load_bundle

    settings = Settings.from_env(model=model, device=device)
    if not can_tune(settings):
        raise SettingsError(
            "nothing to tune: mmes tune requires OpenVINO and a device other than NPU "
            f"(EMBEDDING_USE_OV is {str(settings.use_openvino).lower()}, "
            f"EMBEDDING_DEVICE is {settings.device})"
        )
    with show_stages() as show:
        bundle = load_bundle(settings, show)
        served = choose_form(bundle, settings, show).settings
        best = measure(bundle, served, seconds=seconds, progress=show)
    if as_json:
        typer.echo(json.dumps({modality: asdict(config) for modality, config in best.items()}))
        return
    for modality in bundle.manifest.towers:
        config = best.get(modality, "not measured within the time limit; use a larger --seconds")
        typer.echo(f"{modality}: {config}")
