"""One request's way into the queue: its priority, its groups, and places for its items."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from multimodal_embedding_serving.batching.priority import Priority
from multimodal_embedding_serving.batching.tower import Tower
from multimodal_embedding_serving.inputs.items import Embeddable, ItemBatch
from multimodal_embedding_serving.monitoring.admission import Admission, QueueBound
from multimodal_embedding_serving.monitoring.request import current_client
from multimodal_embedding_serving.types import Modality

MAX_INTERACTIVE_ITEMS = 8
"""Requests with more items than this are bulk, as are videos. While several clients are served, so
are further requests of one that has as many items in progress: its many small requests must not
delay the others' few."""


@dataclass(frozen=True, slots=True)
class Group:
    """Inputs that are embedded together, by their numbers."""

    numbers: list[int]
    tower: Tower


def group_inputs(
    inputs: Sequence[Embeddable],
    batches: Sequence[ItemBatch],
    towers: Mapping[Modality, Tower],
) -> list[Group]:
    """A tower's batches are embedded together; streams each on their own."""
    groups: dict[Modality | int, list[int]] = {}
    for number, batch in enumerate(batches):
        alone = isinstance(batch.items, AsyncGenerator)
        groups.setdefault(number if alone else inputs[number].modality, []).append(number)
    return [Group(each, towers[inputs[each[0]].modality]) for each in groups.values()]


def choose_priority(batches: Sequence[ItemBatch], queue: QueueBound) -> Priority:
    """The priority of a request, by its size and by what its client has in progress."""
    client = current_client()
    total = queue.held_by(client) + sum(batch.count for batch in batches)
    greedy = total > MAX_INTERACTIVE_ITEMS and queue.is_shared(client)
    return Priority.INTERACTIVE if _is_small(batches) and not greedy else Priority.BULK


@contextmanager
def admit(
    batches: Sequence[ItemBatch], groups: Sequence[Group], queue: QueueBound
) -> Iterator[list[Admission]]:
    """Take places in the queue for the items whose bytes are here: an admission per group.

    Raises QueueFull.
    """
    client = current_client()
    with ExitStack() as stack:
        admissions = []
        for group in groups:
            admission = Admission(queue, client, interactive=_is_small(batches))
            stack.callback(admission.close)
            ready = sum(_count_ready(batches[number]) for number in group.numbers)
            admission.reserve(min(ready, group.tower.window))
            admissions.append(admission)
        yield admissions


def _count_ready(batch: ItemBatch) -> int:
    """The items of a batch that need not be fetched or decoded from a video first."""
    if isinstance(batch.items, AsyncGenerator):
        return 0
    return sum(not callable(item) for item in batch.items)


def _is_small(batches: Sequence[ItemBatch]) -> bool:
    """Whether a request may be interactive."""
    few = sum(batch.count for batch in batches) <= MAX_INTERACTIVE_ITEMS
    return few and not any(batch.video for batch in batches)
