"""Bulk jobs on a Ray cluster: folders, lists or Parquet of any size -> a folder of Parquet files.

    from multimodal_embedding_serving.scale.ray_data import embed

    embed(["/shared/photos"], "/shared/vectors")        # on the cluster that ray.init() finds

Ray Data moves the numbers of shards, not media: an actor on some machine reads a shard's items
from the plan, embeds them as `mmes embed` does, and publishes one file (see `shards`). If a machine
is lost, Ray assigns its shards to another; if the driver is lost, the next run resumes.
Every machine must see the inputs and the folder under the same paths.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multimodal_embedding_serving.bulk.job import Tally, Watch
from multimodal_embedding_serving.bulk.listing import Listing
from multimodal_embedding_serving.bulk.models import LocalModel, Model
from multimodal_embedding_serving.bulk.schema import DType, Layout
from multimodal_embedding_serving.bulk.stream import embed as embed_items
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import InvalidInput, MissingExtra
from multimodal_embedding_serving.scale.resources import node_settings, usual_cpus
from multimodal_embedding_serving.scale.shards import DEFAULT_SHARD_ITEMS, Request, Shards
from multimodal_embedding_serving.settings import Settings

try:
    import ray
    import ray.data
except ModuleNotFoundError as error:
    raise MissingExtra("Ray", "ray") from error

Report = dict[str, NDArray[np.int64]]
"""A column each: shard, embedded, failed, vectors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the work is distributed."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Settings, as variables, that override those of each machine."""
    cpus: float = 0
    """Of one actor; 0: all of the smallest machine's, at most 16."""
    gpus: float = 0
    max_actors: int | None = None
    """None: as many as the cluster, which may grow, has room for."""
    dtype: DType = "f32"
    segment: Mapping[str, Any] | None = None
    shard_items: int = DEFAULT_SHARD_ITEMS


class Embedder:
    """An actor with a model. If its machine is lost, Ray creates another one elsewhere."""

    def __init__(self, folder: str, options: Options) -> None:
        settings = node_settings(options.environment, options.cpus)
        self._shards = Shards(Path(folder))
        self._runner = asyncio.Runner()
        self._model: Model = self._open(settings, options)
        self._layout = Layout.of(self._model.identity, options.dtype)
        self._shards.agree(self._layout)

    def _open(self, settings: Settings, options: Options) -> Model:
        return LocalModel(Engine.open(settings=settings), settings, options.segment)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> Report:
        reports = [self._runner.run(self._embed(int(number))) for number in batch["shard"]]
        names = ("shard", "embedded", "failed", "vectors")
        return {name: np.array([report[name] for report in reports]) for name in names}

    async def _embed(self, number: int) -> dict[str, int]:
        with self._shards.write(number, self._layout) as file:
            async with aclosing(embed_items(self._shards.items(number), self._model)) as results:
                async for result in results:
                    file.add(result)
            file.publish()
        done = file.part.done
        failed = sum(1 for _ in file.part.errors())
        return {
            "shard": number,
            "embedded": len(done) - failed,
            "failed": failed,
            "vectors": file.row_count,
        }


@contextmanager
def connect(address: str) -> Iterator[None]:
    """Connect to a cluster: at an address, `auto` (a running one) or `local` (start one).

    Raises InvalidInput if there is none.
    """
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError) as error:
        raise InvalidInput(f"no Ray cluster at {address}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def embed(
    inputs: Iterable[str | Path],
    out: str | Path,
    options: Options | None = None,
    *,
    fresh: bool = False,
    watch: Watch = lambda tally, total: None,
) -> Tally:
    """Embed what is not done yet, on the cluster that Ray is connected to or can connect to.

    `inputs` as `mmes embed --out` takes them: files, folders, globs, URLs and lists (texts are in
    lists). `watch` is called with the tally so far and the number of items. Raises NotFound for an
    input that does not exist, InvalidInput if `out` holds another job, OSError, MissingExtra, and
    Ray's own errors for what ends the whole job.
    """
    options = options or Options()
    arguments = tuple(str(each) for each in inputs)
    if not arguments:
        raise InvalidInput("no input: pass at least one folder, file or URL")
    Listing(arguments, bare_texts=False).check()
    shards = Shards(Path(out).absolute())
    segment = dict(options.segment) if options.segment else None
    shards.plan(
        Request(arguments, options.dtype, segment, options.shard_items),
        fresh=fresh,
    )
    pending, total = shards.pending(), shards.item_count()
    tally = Tally(listed=total)
    tally.unchanged = sum(shards.count(number) for number in shards.done())
    if pending:
        if not ray.is_initialized():
            ray.init()
        for report in _reports(pending, Path(out).absolute(), options):
            tally.embedded += int(report["embedded"])
            tally.failed += int(report["failed"])
            tally.vectors += int(report["vectors"])
            watch(tally, total)
    shards.tidy()
    _add_totals(tally, shards)
    return tally


def _add_totals(tally: Tally, shards: Shards) -> None:
    totals = shards.totals()
    tally.rows, tally.errors = totals.rows, totals.errors
    if totals.errors:
        tally.reasons, tally.errors_file = dict(totals.reasons), str(shards.errors_folder)


def _reports(pending: list[int], folder: Path, options: Options) -> Iterable[Mapping[str, Any]]:
    """A report for each shard as it finishes. A block, and so a task of Ray's, is one shard."""
    cpus = options.cpus or usual_cpus(ray.nodes())
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the caller has one
    shards = ray.data.from_items([{"shard": n} for n in pending], override_num_blocks=len(pending))
    reports = shards.map_batches(
        Embedder,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=options.max_actors),
        num_cpus=cpus,
        num_gpus=options.gpus or None,
        fn_constructor_kwargs={
            "folder": str(folder),
            "options": Options(
                environment=Settings.merge(Settings.variables(), options.environment),
                cpus=cpus,
                dtype=options.dtype,
                segment=options.segment,
            ),
        },
    )
    rows: Iterable[Mapping[str, Any]] = reports.iter_rows()
    return rows
