"""`mmes classify`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from multimodal_embedding_serving.cli.options import (
    ApiKey,
    Device,
    Frames,
    FramesPerSecond,
    Json,
    Model,
    Server,
    model_options,
)
from multimodal_embedding_serving.cli.reports import SOME_FAILED, report_failures
from multimodal_embedding_serving.monitoring.logs import set_up_logging

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk.classify import Classified, Classifier
    from multimodal_embedding_serving.bulk.ledger import ErrorRecord
    from multimodal_embedding_serving.bulk.listing import Listing

Items = Annotated[
    list[str] | None,
    typer.Argument(
        help="Texts, files, folders, globs, URLs, lists (.jsonl, .csv, .parquet), or - for stdin.",
    ),
]
Text = Annotated[
    list[str] | None, typer.Option(help="Text to classify, even if it is a file name.")
]
Labels = Annotated[list[str], typer.Option("--label", "-l", help="A label; repeat for each.")]
Templates = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        help="What to embed of a label, {} being the label; repeat to average several. "
        "Default: {} for texts, 'a photo of a {}' for images and videos.",
    ),
]
Activation = Annotated[
    Literal["softmax", "sigmoid"] | None,
    typer.Option(
        help="softmax: the scores of an input sum to 1; sigmoid: each label stands alone. "
        "Default: as the model was trained."
    ),
]


def classify(
    label: Labels,
    items: Items = None,
    text: Text = None,
    template: Templates = None,
    activation: Activation = None,
    frames: Frames = None,
    fps: FramesPerSecond = None,
    model: Model = None,
    device: Device = None,
    server: Server = None,
    api_key: ApiKey = None,
    as_json: Json = False,
) -> None:
    """Classify texts, images and videos by labels of your own; print a line for each."""
    from multimodal_embedding_serving.bulk.classify import Classifier
    from multimodal_embedding_serving.bulk.listing import Listing
    from multimodal_embedding_serving.sdk.similarity import read_labels, read_templates

    if not items and not text:
        raise typer.BadParameter("no input: pass texts, files, folders or URLs, or use --text")
    read_labels(label), read_templates(template or None)  # before the model is loaded
    listing = Listing(tuple(items or ()), tuple(text or ()), stdin=sys.stdin)
    options = model_options(model, device, server, api_key, frames, fps)
    set_up_logging(options.settings.log_format, options.settings.log_level)
    classifier = Classifier(options.open_model(), label, template or None, activation)
    errors, done = asyncio.run(_print_lines(classifier, listing, as_json=as_json))
    if not classifier.model.identity.calibration.learned:
        name = classifier.model.identity.model
        note = "compare the scores of one input only, and not with those of other models"
        typer.echo(f"mmes: {name} has no learned scale: {note}", err=True)
    if len(errors) > 1:
        from multimodal_embedding_serving.bulk.output import count_reasons

        report_failures(count_reasons(errors))
    raise typer.Exit(0 if not errors else SOME_FAILED if done else 1)


async def _print_lines(
    classifier: Classifier, listing: Listing, *, as_json: bool
) -> tuple[list[ErrorRecord], int]:
    """Print results to stdout and errors to stderr -> the errors and the count of successes."""
    from multimodal_embedding_serving.bulk.classify import Classified
    from multimodal_embedding_serving.bulk.stream import Refusal

    errors: list[ErrorRecord] = []
    done = 0
    try:
        async with aclosing(classifier.classify(listing)) as results:
            async for result in results:
                if isinstance(result, Classified):
                    typer.echo(_line(result, classifier.labels, as_json=as_json))
                    done += 1
                    continue
                key = result.item.key if isinstance(result, Refusal) else result.key
                errors.append((key, result.error.code, result.error.message))
                typer.echo(f"mmes: {key}: {result.error.message}", err=True)
    finally:
        await classifier.model.aclose()
    return errors, done


def _line(result: Classified, labels: Sequence[str], *, as_json: bool) -> str:
    """`0.987  cat  /photos/cat.jpg`, or all scores as a JSON object."""
    from multimodal_embedding_serving.bulk.items import printable

    path = printable(result.item.key)
    if not as_json:
        return f"{max(result.scores):.3f}  {result.label}  {' '.join(path.split())}"
    scores = dict(zip(labels, result.scores, strict=True))
    facts = {"path": path, "kind": result.item.kind, "label": result.label, "scores": scores}
    return json.dumps(facts, ensure_ascii=False)
