"""`mmes samples`."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Annotated

import typer

from multimodal_embedding_serving.cli.options import Json
from multimodal_embedding_serving.cli.reports import count_of

SAMPLES = Path(__file__).parent.parent / "builtin" / "samples"
"""Images and a video that ship with the package; LICENSES.md names their authors."""


def samples(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; made if it does not exist.")],
    as_json: Json = False,
) -> None:
    """Write sample images and a video to a folder, to try things out with."""
    folder.mkdir(parents=True, exist_ok=True)
    written, kept = [], []
    for source in sorted(SAMPLES.iterdir()):
        # Without the suffix of a text, so that embedding the folder leaves it out.
        target = folder / (source.stem if source.suffix == ".md" else source.name)
        if not target.exists():
            shutil.copyfile(source, target)
            written.append(target)
        elif target.read_bytes() != source.read_bytes():
            kept.append(target)
    if as_json:
        facts = {"written": list(map(str, written)), "kept": list(map(str, kept))}
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"wrote {count_of(len(written), 'file')} to {folder}", err=True)
    for target in kept:
        typer.echo(f"mmes: {target} has other contents and was left as it is", err=True)
    typer.echo(f'try: mmes search "a cup of coffee" {shlex.quote(str(folder))}', err=True)
