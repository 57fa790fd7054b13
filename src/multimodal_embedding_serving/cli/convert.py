"""`mmes convert`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from multimodal_embedding_serving.cli.completion import complete_model
from multimodal_embedding_serving.cli.options import Json
from multimodal_embedding_serving.cli.reports import describe_lines
from multimodal_embedding_serving.errors import InvalidInput
from multimodal_embedding_serving.monitoring.logs import set_up_logging
from multimodal_embedding_serving.monitoring.progress import show_stages
from multimodal_embedding_serving.settings import PRECISIONS, Settings

if TYPE_CHECKING:
    from multimodal_embedding_serving.bundles.bundle import Bundle
    from multimodal_embedding_serving.types import Progress


def convert(
    model: Annotated[
        str,
        typer.Argument(
            help="Model: catalog id or alias, hf:org/name, or a folder.",
            autocompletion=complete_model,
        ),
    ],
    precision: Annotated[
        str | None, typer.Option(help=f"Precision of the model: {', '.join(PRECISIONS)}.")
    ] = None,
    calibrate: Annotated[
        Path | None, typer.Option(help="Folder of images and .txt files to calibrate int8 with.")
    ] = None,
    accept: Annotated[
        str | None,
        typer.Option(help="Keys of the checkpoint's files to ignore: config.json:name,…"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Convert again, even if it is already converted.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Download and convert a model ahead of time, so that the server starts quickly."""
    from multimodal_embedding_serving.conversion.store import describe

    settings = Settings.from_env(
        model=model, precision=precision, calibration_dir=calibrate, accept_keys=accept
    )
    options = {"--calibrate": calibrate, "--accept": accept, "--force": force}
    _check(settings, precision, [name for name, value in options.items() if value])
    set_up_logging(settings.log_format, settings.log_level)
    with show_stages() as show:
        bundle = _convert(settings, show, force)
    facts = describe(bundle, settings)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(describe_lines(facts))
    typer.echo(f"now: mmes serve --model {shlex.quote(model)}", err=True)


def _check(settings: Settings, precision: str | None, options: list[str]) -> None:
    """Refuse options that would have no effect. Raises InvalidInput, UnknownModel."""
    from multimodal_embedding_serving.bundles.bundle import Bundle
    from multimodal_embedding_serving.conversion.resolve import resolve_model

    if "--calibrate" in options and settings.precision != "int8":
        raise InvalidInput("--calibrate requires --precision int8")
    resolved = resolve_model(settings)
    if resolved.bundle is None:
        return
    stored = Bundle.load(resolved.bundle).manifest.precision
    if precision not in (None, "auto", stored):
        options = [f"--precision {precision}", *options]
    if options:
        raise InvalidInput(
            f"{resolved.model} is already converted ({stored}) and its checkpoint is not here: "
            f"{', '.join(options)} can't be applied; convert the checkpoint (hf:org/name, or its "
            "folder) instead"
        )


def _convert(settings: Settings, progress: Progress, force: bool) -> Bundle:
    """Convert, check the accuracy on this machine, and tune the form that will be served."""
    from multimodal_embedding_serving.backends.tuning import (
        QUICK_SECONDS,
        can_tune,
        find_tuned_config,
        tune,
    )
    from multimodal_embedding_serving.conversion.serving_form import choose_form
    from multimodal_embedding_serving.conversion.store import load_bundle

    bundle = load_bundle(settings, progress, force=force)
    if can_tune(settings):
        served = choose_form(bundle, settings, progress).settings
        if not find_tuned_config(bundle, "text", served):
            tune(bundle, served, seconds=QUICK_SECONDS, progress=progress)
    return bundle
