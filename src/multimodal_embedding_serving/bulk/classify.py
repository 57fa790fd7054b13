"""Classify many inputs by labels: each is embedded once, and so is each label."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from multimodal_embedding_serving.bulk.items import Failure, Item
from multimodal_embedding_serving.bulk.listing import ListingEntry
from multimodal_embedding_serving.bulk.models import Model
from multimodal_embedding_serving.bulk.stream import Answer, Refusal, embed
from multimodal_embedding_serving.errors import ModalityNotSupported
from multimodal_embedding_serving.sdk.similarity import (
    IMAGE_TEMPLATE,
    TEXT_TEMPLATE,
    Activation,
    fill,
    pool,
    pool_labels,
    read_labels,
    read_templates,
)
from multimodal_embedding_serving.types import Vectors


@dataclass(frozen=True, slots=True)
class Classified:
    """An input and the probability of each label, in the labels' order."""

    item: Item
    label: str
    """The one with the highest score."""
    scores: Sequence[float]


@dataclass(slots=True)
class Classifier:
    """A model and labels. Raises InvalidInput, which names the label or the template."""

    model: Model
    labels: Sequence[str]
    templates: Sequence[str] | None = None
    """None: the bare label for texts, `a photo of a {}` for images and videos."""
    activation: Activation | None = None
    _embedded: dict[tuple[str, ...], Vectors] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.labels, self.templates = read_labels(self.labels), read_templates(self.templates)
        identity = self.model.identity
        if "text" not in identity.kinds:
            raise ModalityNotSupported(
                f"the model {identity.model} does not embed text: it can't read labels"
            )

    async def classify(
        self, entries: Iterable[ListingEntry]
    ) -> AsyncGenerator[Classified | Refusal | Failure, None]:
        """Yield a result for each entry, in the same order. Raises as `bulk.stream.embed`."""
        async with aclosing(embed(entries, self.model)) as results:
            async for result in results:
                yield await self._classify(result) if isinstance(result, Answer) else result

    async def _classify(self, answer: Answer) -> Classified:
        labels = await self._label_vectors(answer.item)
        vector = pool(answer.vectors[None])  # of a video, the mean of its frames
        calibration = self.model.identity.calibration
        (scores,) = calibration.probabilities(vector, labels, self.activation)
        return Classified(answer.item, self.labels[scores.argmax()], scores.tolist())

    async def _label_vectors(self, item: Item) -> Vectors:
        default = TEXT_TEMPLATE if item.kind == "text" else IMAGE_TEMPLATE
        templates = tuple(self.templates or (default,))
        if templates not in self._embedded:
            vectors = await self.model.texts(fill(self.labels, templates))
            self._embedded[templates] = pool_labels(vectors, templates)
        return self._embedded[templates]
