"""`mmes embed --ray`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from multimodal_embedding_serving.cli.options import Asked
from multimodal_embedding_serving.cli.reports import progress, report
from multimodal_embedding_serving.monitoring.logs import set_up_logging
from multimodal_embedding_serving.monitoring.progress import show_work

if TYPE_CHECKING:
    from multimodal_embedding_serving.bulk.job import Tally
    from multimodal_embedding_serving.bulk.schema import DType


def on_cluster(
    address: str,
    items: list[str],
    out: str | None,
    asked: Asked,
    dtype: DType,
    *,
    fresh: bool,
    as_json: bool,
) -> None:
    """Embed on the Ray cluster at an address; `auto` finds one, `local` starts one.

    Raises MissingExtra, InvalidInput, OSError.
    """
    if out is None:
        raise typer.BadParameter("--ray takes items, --out, --fresh, and what vectors are of")
    from multimodal_embedding_serving.scale.ray_data import Options, connect, embed

    set_up_logging(asked.settings.log_format, asked.settings.log_level)
    told = {"EMBEDDING_MODEL_NAME": asked.settings.model, "EMBEDDING_DEVICE": asked.settings.device}
    options = Options(environment=told, dtype=dtype, segment=asked.segment or None)
    with show_work("embedding") as show, connect(address):

        def watch(tally: Tally, total: int | None) -> None:
            show(progress(tally, total))

        tally = embed(items, out, options, fresh=fresh, watch=watch)
    report(tally, out, as_json)
