"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str | None, typer.Option("--model", "-m", help="Catalog id, alias, hf:org/name, or a folder.")
]
Device = Annotated[str | None, typer.Option(help="CPU, GPU, NPU, AUTO, …")]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout.")]
