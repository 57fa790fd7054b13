"""The progress and the final report of `mmes embed`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from multimodal_embedding_serving.monitoring.progress import Work

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk.job import Tally

SOME_FAILED = 4
"""Exit status: some inputs could not be embedded, others were."""


def progress(tally: Tally, total: int | None) -> Work:
    """A tally as a progress bar shows it."""
    note = f"{tally.failed:,} failed" if tally.failed else ""
    return Work(tally.embedded + tally.failed + tally.unchanged, total, note)


def report(tally: Tally, out: str, as_json: bool) -> None:
    """Print the tally; raise typer.Exit if an input failed."""
    if as_json:
        typer.echo(json.dumps({"out": out, **tally.facts()}))
    else:
        total = f" ({tally.errors:,} in all)" if tally.errors > tally.failed else ""
        typer.echo(
            f"{out}: {tally.rows:,} vectors; {tally.embedded:,} inputs embedded, "
            f"{tally.unchanged:,} unchanged, {tally.removed:,} removed, "
            f"{tally.failed:,} failed{total}"
        )
    if tally.errors:
        raise typer.Exit(SOME_FAILED if tally.rows else 1)
