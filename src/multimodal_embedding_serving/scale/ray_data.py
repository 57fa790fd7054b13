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
import time
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
from multimodal_embedding_serving.errors import InvalidInput, MissingExtra, RemoteFailed
from multimodal_embedding_serving.scale.ray_board import following
from multimodal_embedding_serving.scale.ray_cluster import find_share
from multimodal_embedding_serving.scale.resources import node_settings
from multimodal_embedding_serving.scale.shards import (
    DEFAULT_SHARD_ITEMS,
    Request,
    ShardFile,
    Shards,
)
from multimodal_embedding_serving.settings import Settings

try:
    import ray
    import ray.data
except ModuleNotFoundError as error:
    raise MissingExtra("Ray", "ray") from error

log = logging.getLogger(__name__)

NOTE_SECONDS = 1.0
"""Between two reports of an actor about the same shard."""

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

    def __init__(self, folder: str, options: Options, board: Any) -> None:
        settings = node_settings(options.environment, options.cpus)
        self._shards = Shards(Path(folder))
        self._runner = asyncio.Runner()
        self._model: Model = self._open(settings, options)
        self._layout = Layout.of(self._model.identity, options.dtype)
        self._shards.agree(self._layout)
        self._board = board
        self._noted = time.monotonic()

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
                    if self._due():
                        self._board.note.remote(_report(number, file))
            file.publish()
        return _report(number, file)

    def _due(self) -> bool:
        """Whether to report how far the shard is."""
        now = time.monotonic()
        due = now - self._noted >= NOTE_SECONDS
        self._noted = now if due else self._noted
        return due


def _report(number: int, file: ShardFile) -> dict[str, int]:
    """The counts of a shard, finished or not."""
    done = len(file.part.done)
    failed = sum(1 for _ in file.part.errors())
    vectors = file.row_count + len(file.part.rows)
    return {"shard": number, "embedded": done - failed, "failed": failed, "vectors": vectors}


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
    RemoteFailed for what ends the whole job.
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
        with following(tally, total, watch) as board, _failures():
            for report in _reports(pending, Path(out).absolute(), options, board.actor):
                board.finish(report)
    shards.tidy()
    _add_totals(tally, shards)
    return tally


@contextmanager
def _failures() -> Iterator[None]:
    """Raise RemoteFailed with the last line of what Ray raises: before it is a traceback."""
    try:
        yield
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RemoteFailed(f"the job on the Ray cluster failed: {reason}") from error


def _add_totals(tally: Tally, shards: Shards) -> None:
    totals = shards.totals()
    tally.rows, tally.errors = totals.rows, totals.errors
    if totals.errors:
        tally.reasons, tally.errors_file = dict(totals.reasons), str(shards.errors_folder)


def _reports(
    pending: list[int], folder: Path, options: Options, board: Any
) -> Iterable[Mapping[str, Any]]:
    """A report for each shard as it finishes. A block, and so a task of Ray's, is one shard."""
    share = find_share(options.cpus, options.gpus)
    if share.lacking is not None:
        log.warning("%s", share.lacking)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the caller has one
    _silence_console()
    shards = ray.data.from_items([{"shard": n} for n in pending], override_num_blocks=len(pending))
    reports = shards.map_batches(
        Embedder,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=options.max_actors),
        num_cpus=share.cpus,
        num_gpus=share.gpus or None,
        fn_constructor_kwargs={
            "folder": str(folder),
            "board": board,
            "options": Options(
                environment=Settings.merge(Settings.variables(), options.environment),
                cpus=share.cpus,
                dtype=options.dtype,
                segment=options.segment,
            ),
        },
    )
    rows: Iterable[Mapping[str, Any]] = reports.iter_rows()
    return rows


def _silence_console() -> None:
    """Keep Ray Data's log in its file: on the terminal it would break the caller's progress bar,
    and what ends a job is raised."""
    for handler in logging.getLogger("ray.data").handlers:
        if handler.name == "console":
            handler.setLevel(logging.CRITICAL)
