"""`mmes doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from multimodal_embedding_serving.cli.options import Device, Json, Model
from multimodal_embedding_serving.settings import Settings

if TYPE_CHECKING:
    from multimodal_embedding_serving.diagnostics.doctor import Finding

Try = Annotated[
    bool, typer.Option("--open", help="Open the model as well, downloading if need be.")
]


def doctor(
    model: Model = None, device: Device = None, open_model: Try = False, as_json: Json = False
) -> None:
    """Look at devices, folders, the hub, the model and the settings: 0 fine, 1 something broken."""
    from multimodal_embedding_serving.diagnostics.doctor import examine

    settings = Settings.from_env(model=model, device=device)
    found: list[Finding] = []
    for finding in examine(settings, open_model=open_model):
        if not as_json:
            _show(finding, found[-1].topic if found else "")
        found.append(finding)
    states = [finding.state for finding in found]
    broken, warnings = states.count("broken"), states.count("warning")
    if as_json:
        facts = [asdict(finding) for finding in found]
        typer.echo(json.dumps({"healthy": not broken, "findings": facts}))
    else:
        typer.echo(f"\n{broken} broken, {warnings} to look at")
    raise typer.Exit(1 if broken else 0)


def _show(finding: Finding, last_topic: str) -> None:
    if finding.topic != last_topic:
        typer.secho(("\n" if last_topic else "") + finding.topic, bold=True)
    mark, colour = {"ok": (" ", None), "warning": ("!", "yellow"), "broken": ("x", "red")}[
        finding.state
    ]
    typer.secho(f"{mark} {finding.name}: {finding.value}", fg=colour)
