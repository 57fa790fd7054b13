"""What several commands print: progress, failures, facts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from multimodal_embedding_serving.monitoring.progress import Work

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk.job import Tally

SOME_FAILED = 4
"""Exit status: some inputs could not be embedded, others were."""
MAX_SHOWN_REASONS = 4


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
        report_failures(tally.reasons, tally.errors_file)
        raise typer.Exit(SOME_FAILED if tally.rows else 1)


def report_failures(reasons: Mapping[str, int], file: str | None = None) -> None:
    """Print one line on standard error: how many inputs failed, why, and where they are listed."""
    total = sum(reasons.values())
    shown = list(reasons.items())[:MAX_SHOWN_REASONS]
    rest = total - sum(count for _, count in shown)
    parts = [f"{count:,} × {reason}" for reason, count in shown]
    if rest:
        parts.append(f"{rest:,} × other reasons")
    why = next(iter(reasons)) if len(reasons) == 1 else "; ".join(parts)
    where = f"; they are listed in {file}" if file else ""
    typer.echo(f"mmes: could not embed {count_of(total, 'input')}: {why}{where}", err=True)


def count_of(number: int, noun: str) -> str:
    """1 file, or 2,000 files."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def clock(seconds: float) -> str:
    """1:05:09.2, or 0:07.5."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def describe_lines(facts: Mapping[str, Any]) -> str:
    """A line for each fact that is known."""
    known = {name: value for name, value in facts.items() if value not in (None, "", [], {})}
    return "\n".join(f"{_label(name)}: {value}" for name, value in known.items())


def _label(name: str) -> str:
    """JSON keeps the key of the first version."""
    return "license" if name == "licence" else name
