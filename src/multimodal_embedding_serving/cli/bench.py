"""`mmes bench`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from multimodal_embedding_serving.cli.options import (
    ApiKey,
    Device,
    Json,
    Model,
    Server,
    model_options,
)

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk.models import Identity
    from multimodal_embedding_serving.diagnostics.benchmark import Rate

Seconds = Annotated[
    float, typer.Option(min=0.01, max=600, help="Seconds to measure each kind of input.")
]
LABELS = {"text": "texts of 8 words", "image": "JPEGs of 640x480"}


def bench(
    seconds: Seconds = 5.0,
    model: Model = None,
    device: Device = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Measure throughput and latency for texts and images, here or on a server."""
    from multimodal_embedding_serving.diagnostics.benchmark import measure

    options = model_options(model, device, server, api_key)
    embedder = replace(options, settings=replace(options.settings, cache_mb=0)).open_model()

    async def work(folder: Path) -> tuple[Identity, list[Rate]]:
        try:
            return embedder.identity, await measure(embedder, folder, seconds)
        finally:
            await embedder.aclose()

    with TemporaryDirectory(prefix="mmes-bench-") as folder:
        identity, rates = asyncio.run(work(Path(folder)))
    if as_json:
        facts = [rate.facts() for rate in rates]
        model_facts = {"model": identity.model, "fingerprint": identity.fingerprint}
        typer.echo(json.dumps({**model_facts, "rates": facts}))
        return
    typer.echo(f"{identity.model} ({identity.fingerprint or 'fingerprint not reported'})")
    for rate in rates:
        single = f"a single one {rate.single_ms:.1f} ms (median of {rate.singles})"
        typer.echo(f"{LABELS[rate.kind]}: {rate.per_second:.1f} per second, {single}")
