"""`mmes embed --ray`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from multimodal_embedding_serving.cli.options import ModelOptions
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
    selected: ModelOptions,
    dtype: DType,
    *,
    fresh: bool,
    as_json: bool,
) -> None:
    """Embed on the Ray cluster at an address; `auto` finds one, `local` starts one.

    Raises MissingExtra, InvalidInput, OSError.
    """
    if out is None:
        raise typer.BadParameter(
            "--ray requires --out and does not support --text, --to, --kind, --server, --retry "
            "or --drop-removed"
        )
    from multimodal_embedding_serving.scale.ray_cluster import connect
    from multimodal_embedding_serving.scale.ray_data import Options, embed

    set_up_logging(selected.settings.log_format, selected.settings.log_level)
    environment = {
        "EMBEDDING_MODEL_NAME": selected.settings.model,
        "EMBEDDING_DEVICE": selected.settings.device,
    }
    options = Options(environment=environment, dtype=dtype, segment=selected.segment or None)
    with show_work("embedding") as show, connect(address):

        def watch(tally: Tally, total: int | None) -> None:
            show(progress(tally, total))

        tally = embed(items, out, options, fresh=fresh, watch=watch)
    report(tally, out, as_json)
