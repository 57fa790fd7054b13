"""`mmes serve`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from multimodal_embedding_serving.cli.exit import leave
from multimodal_embedding_serving.cli.options import Device, Model
from multimodal_embedding_serving.errors import NotFound
from multimodal_embedding_serving.monitoring.logs import set_up_logging
from multimodal_embedding_serving.settings import Settings, find_unknown_variables

log = logging.getLogger(__name__)


def serve(
    model: Model = None,
    device: Device = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="Path prefix under which a proxy exposes the server.")
    ] = "",
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate (PEM file).")] = None,
    private_key: Annotated[Path | None, typer.Option(help="TLS private key (PEM file).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Log JSON lines to stderr.")] = False,
) -> None:
    """Serve a model over HTTP until SIGTERM or Ctrl-C; settings come from the environment."""
    if root_path and not root_path.startswith("/"):
        raise typer.BadParameter(f"--root-path must begin with a slash: /{root_path}")
    for name, file in (("--certificate", certificate), ("--private-key", private_key)):
        if file is not None and not file.is_file():
            raise NotFound(f"{name} {file}: no such file")
    from multimodal_embedding_serving.api.server import serve as run
    from multimodal_embedding_serving.api.service import Listening

    settings = Settings.from_env(model=model, device=device, host=host, port=port)
    log_format = "json" if as_json else settings.log_format
    set_up_logging(log_format, settings.log_level)
    for sentence in find_unknown_variables():
        log.warning("%s", sentence)
    listening = Listening(
        root_path=root_path.rstrip("/"), certificate=certificate, private_key=private_key
    )
    reason = run(settings, listening)
    logging.shutdown()
    if reason is not None:
        typer.echo(f"mmes: {reason}", err=True)
    leave(0 if reason is None else 1)
