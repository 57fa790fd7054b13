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

Open = Annotated[
    bool, typer.Option("--open", help="Load the model as well; download and convert it if needed.")
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify", help="Hash the installed files, every converted model and what was compiled."
    ),
]


def doctor(
    model: Model = None,
    device: Device = None,
    open_model: Open = False,
    verify: Verify = False,
    as_json: Json = False,
) -> None:
    """Check devices, folders, hub, model and settings (exit 0: healthy, 1: broken)."""
    from multimodal_embedding_serving.diagnostics.doctor import examine

    settings = Settings.from_env(model=model, device=device)
    findings: list[Finding] = []
    for finding in examine(settings, open_model=open_model, verify=verify):
        if not as_json:
            _show(finding, findings[-1].topic if findings else "")
        findings.append(finding)
    states = [finding.state for finding in findings]
    broken, warnings = states.count("broken"), states.count("warning")
    if as_json:
        facts = [asdict(finding) for finding in findings]
        typer.echo(json.dumps({"healthy": not broken, "findings": facts}))
    else:
        typer.echo(f"\n{broken} broken, {warnings} warning{'' if warnings == 1 else 's'}")
    raise typer.Exit(1 if broken else 0)


def _show(finding: Finding, last_topic: str) -> None:
    if finding.topic != last_topic:
        typer.secho(("\n" if last_topic else "") + finding.topic, bold=True)
    mark, color = {"ok": (" ", None), "warning": ("!", "yellow"), "broken": ("x", "red")}[
        finding.state
    ]
    typer.secho(f"{mark} {finding.name}: {finding.value}", fg=color)
