"""A bulk job: embed what the listing has and the ledger lacks, publish it in parts, merge them.

A job that is killed loses what it has embedded since its last part, and the next run resumes there:
an item is done exactly when the ledger says so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Literal

from multimodal_embedding_serving.bulk.items import Item
from multimodal_embedding_serving.bulk.ledger import Ledger, reporting_damage
from multimodal_embedding_serving.bulk.listing import ListingEntry
from multimodal_embedding_serving.bulk.models import Model
from multimodal_embedding_serving.bulk.output import (
    LEDGER,
    STATE,
    Output,
    count_reasons,
    forget,
    lock,
)
from multimodal_embedding_serving.bulk.parts import FORMAT, Part, check_format, check_same_job
from multimodal_embedding_serving.bulk.schema import DType, Layout
from multimodal_embedding_serving.bulk.stream import Answer, Result, embed

DEFAULT_PART_ROWS = 2048
DEFAULT_PART_SECONDS = 30.0
"""A part is published when it has so many rows or is so old: what a killed job may lose."""
MAX_REMOVALS = 500
"""Files whose rows are removed at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    dtype: DType = "f32"
    retry: bool = False
    """Retry items that failed, though they have not changed."""
    removed: Literal["keep", "drop"] = "keep"
    """What to do with the rows of files that no longer exist."""
    part_rows: int = DEFAULT_PART_ROWS
    part_seconds: float = DEFAULT_PART_SECONDS
    recipe: str = ""
    """What else the vectors depend on: which frames of a video are sampled."""


@dataclass(slots=True)
class Tally:
    """The progress of a job, in items."""

    listed: int = 0
    embedded: int = 0
    unchanged: int = 0
    failed: int = 0
    removed: int = 0
    vectors: int = 0
    """Embedded in this run."""
    rows: int = 0
    """In the whole output; set at the end, as is `errors`."""
    errors: int = 0
    """Inputs that could not be embedded, in this run or before."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Why, each with the number of inputs, most frequent first; set at the end, as is the next."""
    errors_file: str | None = None
    """The file, or on a cluster the folder, that lists them; None if there are none."""

    def facts(self) -> dict[str, Any]:
        return asdict(self)


Watch = Callable[[Tally, int | None], None]
"""Called with the tally so far and the number of items; None until the listing has ended."""


class PendingItems:
    """The items of a listing that are not done. Each is unpublished until its part is published."""

    def __init__(self, entries: Iterable[ListingEntry], ledger: Ledger, tally: Tally) -> None:
        self._entries, self._ledger, self._tally = entries, ledger, tally
        self.unpublished: dict[str, bool] = {}
        """Key -> whether the item had rows before."""
        self.total: int | None = None
        """Items, not counting repeated ones; None until the listing has ended."""

    def __iter__(self) -> Iterator[ListingEntry]:
        count = 0
        for each in self._entries:
            self._tally.listed += 1
            if each.key in self.unpublished:
                continue
            count += 1
            if isinstance(each, Item):
                state = self._ledger.state(each)
                if state:
                    self._tally.unchanged += 1
                    continue
                self.unpublished[each.key] = state is not None
            yield each
        self.total = count


class Job:
    """One run over an output. Made by `run`."""

    def __init__(self, ledger: Ledger, output: Output, options: Options, watch: Watch) -> None:
        self._ledger, self._output, self._options, self._watch = ledger, output, options, watch
        self._tally = Tally()
        self._part = Part(options.dtype)
        self._number = int(ledger.facts().get("part", 0))

    async def run(self, entries: Iterable[ListingEntry], model: Model) -> Tally:
        pending = PendingItems(entries, self._ledger, self._tally)
        self._ledger.forget_failures(every=self._options.retry)
        try:
            async with aclosing(embed(pending, model)) as results:
                async for result in results:
                    self._count(result)
                    self._part.add(result)
                    if self._part.is_due(self._options.part_rows, self._options.part_seconds):
                        await _in_full(lambda: self._publish(pending))
                    self._watch(self._tally, pending.total)
        finally:  # if interrupted, too: keep what is embedded
            self._publish(pending)
        self._watch(self._tally, pending.total)
        if self._options.removed == "drop":
            await _in_full(self._drop_removed)
        await _in_full(lambda: self._output.finish(self._ledger))
        self._tally.rows, _ = self._ledger.count()
        self._tally.errors = self._ledger.count_errors()
        if self._tally.errors:
            self._tally.reasons = count_reasons(self._ledger.errors())
            self._tally.errors_file = str(self._output.errors_file)
        return self._tally

    def _count(self, result: Result) -> None:
        if isinstance(result, Answer):
            self._tally.embedded += 1
            self._tally.vectors += len(result.vectors)
        else:
            self._tally.failed += 1

    def _publish(self, pending: PendingItems) -> None:
        part, self._part = self._part, Part(self._options.dtype)
        if not part.done:
            return
        self._number += 1
        replaced = [each.key for each in part.done if pending.unpublished.get(each.key)]
        if part.rows or replaced:
            self._output.write(self._number, part.rows, replaced)
        self._ledger.publish(self._number, part.done)
        for each in part.done:
            pending.unpublished.pop(each.key, None)

    def _drop_removed(self) -> None:
        missing = (key for key in self._ledger.files() if not os.path.lexists(key))
        while keys := list(islice(missing, MAX_REMOVALS)):
            self._output.remove(keys)
            self._ledger.remove(keys)
            self._tally.removed += len(keys)


async def run(
    entries: Iterable[ListingEntry],
    model: Model,
    output: Output,
    options: Options,
    *,
    fresh: bool = False,
    wait: bool = False,
    watch: Watch = lambda tally, total: None,
) -> Tally:
    """Embed what of a listing is not done; `wait` for another job on the same output.

    Raises InvalidInput if the output was started with another model, dtype or recipe, or another
    job writes to it; OutputDamaged if its files are not as the last job left them; what ends a job
    (see `stream.embed`); OSError.
    """
    layout = Layout.of(model.identity, options.dtype)
    with ExitStack() as open_:
        open_.callback(output.close)
        open_.enter_context(lock(output.state, wait=wait))
        if fresh:
            forget(output.state)
        name = output.state.name.removesuffix(STATE)
        ledger = open_.enter_context(Ledger(output.state / LEDGER, name))
        open_.enter_context(reporting_damage(name))
        _check(ledger, layout, options.recipe, name)
        output.open(ledger, layout, fresh=fresh)
        return await Job(ledger, output, options, watch).run(entries, model)


def _check(ledger: Ledger, layout: Layout, recipe: str, name: str) -> None:
    """Raise InvalidInput unless the ledger's rows were made as this job makes them."""
    facts = {**asdict(layout), "recipe": recipe, "format": FORMAT}
    requested = {fact: str(value) for fact, value in facts.items()}
    recorded = ledger.facts()
    check_format(name, recorded)
    if ledger.count()[0]:
        check_same_job(name, recorded, requested)
    ledger.note(requested)


async def _in_full(work: Callable[[], None]) -> None:
    """Run `work` on a thread, to its end even if this is cancelled."""
    task = asyncio.create_task(asyncio.to_thread(work))
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
