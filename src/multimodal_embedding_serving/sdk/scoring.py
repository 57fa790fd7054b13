"""One call of a verb that scores: what it embeds, and the result of these vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput
from multimodal_embedding_serving.sdk.arguments import choice, kind_of, positive, read_segment
from multimodal_embedding_serving.sdk.call import EmbedCall, read_call
from multimodal_embedding_serving.sdk.results import Classification, Ranked, VideoVectors
from multimodal_embedding_serving.sdk.similarity import (
    IMAGE_TEMPLATE,
    TEXT_TEMPLATE,
    Activation,
    Calibration,
    Scores,
    cosines,
    fill,
    pool,
    pool_labels,
    rank,
    read_labels,
    read_templates,
)
from multimodal_embedding_serving.types import Vectors

Query = str | Path | bytes | Image.Image | NDArray[Any]
"""A string is a text. An image is a path, file contents, a PIL image or an array."""


@dataclass(frozen=True, slots=True)
class ClassifyCall:
    """One call of `classify`. Made by `read_classify`."""

    labels: list[str]
    templates: list[str]
    activation: Activation | None
    label_call: EmbedCall
    input_call: EmbedCall

    def result(self, labels: Any, inputs: Any, calibration: Calibration) -> Classification:
        """The vectors by position, as the embedder returns them -> the result."""
        label_vectors = pool_labels(stack(labels), self.templates)
        vectors = stack(inputs, label_vectors.shape[1])
        scores = calibration.probabilities(vectors, label_vectors, self.activation)
        return Classification(self.labels, scores, calibration.learned)


@dataclass(frozen=True, slots=True)
class ScoreCall:
    """One call of `score` or `rerank`. Made by `read_score`."""

    query_call: EmbedCall
    document_call: EmbedCall
    top_n: int | None = None

    def scores(self, query: Any, documents: Any) -> Scores:
        """The vectors by position, as the embedder returns them -> a cosine for each document."""
        vector = stack(query)
        scores: Scores = cosines(vector, stack(documents, vector.shape[1]))[0]
        return scores

    def ranked(self, scores: Scores) -> list[Ranked]:
        return [Ranked(index, float(scores[index])) for index in rank(scores, self.top_n)]


def read_classify(labels: Any, template: Any, activation: Any, **inputs: Any) -> ClassifyCall:
    """Check the arguments. Raises InvalidInput or NotFound, which name the argument."""
    if activation is not None:
        choice("activation", activation, Activation)
    names = read_labels(labels)
    input_call = _documents(inputs)
    default = TEXT_TEMPLATE if input_call.argument == "texts" else IMAGE_TEMPLATE
    templates = read_templates(template) or [default]
    label_call = read_call(texts=fill(names, templates), role="document")
    return ClassifyCall(names, templates, activation, label_call, input_call)


def read_score(query: Any, top_n: Any = None, **documents: Any) -> ScoreCall:
    """Check the arguments. Raises InvalidInput or NotFound, which name the argument."""
    if top_n is not None:
        positive("top_n", top_n)
    return ScoreCall(_query(query), _documents(documents), top_n)


def _query(query: Any) -> EmbedCall:
    call = None
    if isinstance(query, str):
        call = read_call(texts=query) if query else None
    elif query is not None and not isinstance(query, list | tuple):
        with errors_of("query"):
            call = read_call(images=query)
    if call is None or not call.single:
        kind = "an empty string" if isinstance(query, str) else kind_of(query)
        raise InvalidInput(
            "query must be one text (a string that is not empty) or one image (a path, bytes, a "
            f"PIL image or an array), not {kind}",
            param="query",
        )
    return call


def _documents(inputs: dict[str, Any]) -> EmbedCall:
    """Texts as documents, also a single one; a video as one vector."""
    if inputs.get("video") is not None:
        inputs["segment"] = {**(read_segment(inputs["segment"]) or {}), "pooling": "mean"}
    role = "document" if inputs.get("texts") is not None else None
    return read_call(**inputs, role=role)


@contextmanager
def errors_of(argument: str, texts_per_item: int = 1) -> Iterator[None]:
    """Name the item as the caller wrote it: what is embedded is `texts` or `images`."""
    try:
        yield
    except EmbeddingError as error:
        if error.param in ("texts", "images"):
            place = "" if error.index is None else f"[{error.index // texts_per_item}]"
            message = error.message.removeprefix(f"{error.param}: ")
            error.message, error.index = f"{argument}{place}: {message}", None
            error.param = argument
        raise


def stack(found: Any, dimension: int = 0) -> Vectors:
    """Vectors (of a video: its frames') by position -> [items, dimension], one for each item."""
    rows: Sequence[Vectors] = [
        pool(each.vectors[None])[0] if isinstance(each, VideoVectors) else each
        for _, each in sorted(found.items())
    ]
    return np.stack(rows) if rows else np.empty((0, dimension), np.float32)
