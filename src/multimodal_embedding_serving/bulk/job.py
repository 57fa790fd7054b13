"""A bulk job: what is listed and not done yet is embedded, published in parts, and merged.

Killed at any moment it loses what it had embedded since its last part, and the next run goes on
from there: an item is done exactly when the ledger says so.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Literal

from multimodal_embedding_serving.bulk.items import Item
from multimodal_embedding_serving.bulk.ledger import Ledger
from multimodal_embedding_serving.bulk.listing import Listed
from multimodal_embedding_serving.bulk.models import Model
from multimodal_embedding_serving.bulk.output import LEDGER, STATE, Output, forget, lock
from multimodal_embedding_serving.bulk.parts import FORMAT, Part, check_format, check_same_job
from multimodal_embedding_serving.bulk.schema import DType, Layout
from multimodal_embedding_serving.bulk.stream import Answer, Result, embed

PART_ROWS = 2048
PART_SECONDS = 30.0
"""A part is published when it has so many rows or is so old: what a kill may cost."""
REMOVED_AT_A_TIME = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    dtype: DType = "f32"
    retry: bool = False
    """Try again what failed, though it has not changed."""
    removed: Literal["keep", "drop"] = "keep"
    """What becomes of the rows of files that are gone."""
    part_rows: int = PART_ROWS
    part_seconds: float = PART_SECONDS
    recipe: str = ""
    """What else the vectors depend on: the choice of a video's frames."""


@dataclass(slots=True)
class Tally:
    """How far a job is, in items."""

    listed: int = 0
    embedded: int = 0
    unchanged: int = 0
    failed: int = 0
    removed: int = 0
    vectors: int = 0
    """Of what was embedded in this run."""
    rows: int = 0
    """Of the whole output; known at the end, as is the next."""
    errors: int = 0
    """Inputs that could not be embedded, in this run or before."""

    def facts(self) -> dict[str, int]:
        return asdict(self)


Watch = Callable[[Tally, int | None], None]
"""Called with the tally so far and the number of items; None until the listing has ended."""


class PendingItems:
    """What of a listing is still to be done. Handed out items are pending until published."""

    def __init__(self, listed: Iterable[Listed], ledger: Ledger, tally: Tally) -> None:
        self._listed, self._ledger, self._tally = listed, ledger, tally
        self.pending: dict[str, bool] = {}
        """Key -> whether the item had rows before."""
        self.total: int | None = None
        """Items, not counting repeated ones; None until the listing has ended."""

    def __iter__(self) -> Iterator[Listed]:
        count = 0
        for each in self._listed:
            self._tally.listed += 1
            if each.key in self.pending:
                continue
            count += 1
            if isinstance(each, Item):
                state = self._ledger.state(each)
                if state:
                    self._tally.unchanged += 1
                    continue
                self.pending[each.key] = state is not None
            yield each
        self.total = count


class Job:
    """One run over an output. Made by `run`."""

    def __init__(self, ledger: Ledger, output: Output, options: Options, watch: Watch) -> None:
        self._ledger, self._output, self._options, self._watch = ledger, output, options, watch
        self._tally = Tally()
        self._part = Part(options.dtype)
        self._number = int(ledger.facts().get("part", 0))

    async def run(self, listed: Iterable[Listed], model: Model) -> Tally:
        plan = PendingItems(listed, self._ledger, self._tally)
        self._ledger.forget_failures(every=self._options.retry)
        try:
            async with aclosing(embed(plan, model)) as results:
                async for result in results:
                    self._count(result)
                    self._part.add(result)
                    if self._part.is_due(self._options.part_rows, self._options.part_seconds):
                        await _in_full(lambda: self._publish(plan))
                    self._watch(self._tally, plan.total)
        finally:  # interrupted, too: what is embedded is kept
            self._publish(plan)
        self._watch(self._tally, plan.total)
        if self._options.removed == "drop":
            await _in_full(self._drop_removed)
        await _in_full(lambda: self._output.finish(self._ledger))
        self._tally.rows, _ = self._ledger.count()
        self._tally.errors = self._ledger.count_errors()
        return self._tally

    def _count(self, result: Result) -> None:
        if isinstance(result, Answer):
            self._tally.embedded += 1
            self._tally.vectors += len(result.vectors)
        else:
            self._tally.failed += 1

    def _publish(self, plan: PendingItems) -> None:
        part, self._part = self._part, Part(self._options.dtype)
        if not part.done:
            return
        self._number += 1
        known = [each.key for each in part.done if plan.pending.get(each.key)]
        if part.rows or known:
            self._output.write(self._number, part.rows, known)
        self._ledger.publish(self._number, part.done)
        for each in part.done:
            plan.pending.pop(each.key, None)

    def _drop_removed(self) -> None:
        gone = (key for key in self._ledger.files() if not os.path.lexists(key))
        while keys := list(islice(gone, REMOVED_AT_A_TIME)):
            self._output.remove(keys)
            self._ledger.remove(keys)
            self._tally.removed += len(keys)


async def run(
    listed: Iterable[Listed],
    model: Model,
    output: Output,
    options: Options,
    *,
    fresh: bool = False,
    wait: bool = False,
    watch: Watch = lambda tally, total: None,
) -> Tally:
    """Do what is left to do of a listing; `wait` for another job on the same output.

    Raises InvalidInput where the output holds vectors of another model or form, or another job
    writes to it; what ends a job (see `stream`); OSError.
    """
    layout = Layout.of(model.identity, options.dtype)
    with ExitStack() as open_:
        open_.callback(output.close)
        open_.enter_context(lock(output.state, wait=wait))
        if fresh:
            forget(output.state)
        ledger = open_.enter_context(Ledger(output.state / LEDGER))
        _check(ledger, layout, options.recipe, output.state.name.removesuffix(STATE))
        output.open(ledger, layout, fresh=fresh)
        return await Job(ledger, output, options, watch).run(listed, model)


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
    """Do it on a thread, and to its end even if this is cancelled."""
    doing = asyncio.create_task(asyncio.to_thread(work))
    try:
        await asyncio.shield(doing)
    except asyncio.CancelledError:
        await doing
        raise
