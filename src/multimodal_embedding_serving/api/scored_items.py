"""The fields of a request that are compared with each other, such as `query` and `documents`.

The items of all fields are embedded together, as one request to the queue. An error names its item
as the client wrote it: `documents[3]: …`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from starlette.requests import Request

from multimodal_embedding_serving.api.disconnect import cancel_on_disconnect
from multimodal_embedding_serving.api.openai_input import MAX_INLINE_ITEMS, read_items
from multimodal_embedding_serving.api.schemas import OpenAIRequest
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput
from multimodal_embedding_serving.inputs.items import Embeddable, InputLimits, Role, Texts
from multimodal_embedding_serving.sdk.similarity import Scores, cosines
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Vectors


@dataclass(frozen=True, slots=True)
class ScoredField:
    """A field's items, each with one vector."""

    name: str
    inputs: Sequence[Embeddable]
    single: bool = False
    """The field is one item, not a list."""
    inputs_per_item: int = 1
    """Several: the templates of a label."""

    def locate(self, error: EmbeddingError, place: int) -> EmbeddingError:
        """The error of the input at `place`, with the item named as the client wrote it."""
        return locate(error, self.name, None if self.single else place // self.inputs_per_item)


def locate(error: EmbeddingError, name: str, index: int | None) -> EmbeddingError:
    """The same error, with the item's name before its message."""
    item = name if index is None else f"{name}[{index}]"
    error.message = f"{item}: {error.message}"
    error.index, error.param = index, name if index is None else f"{name}.{index}"
    return error


async def read_field(
    name: str, value: Any, settings: Settings, *, role: Role, images: bool = False
) -> ScoredField:
    """The items of a field: one, or a list of them. `images`: plain strings are images.

    Raises InvalidInput and TooLarge, which name the item.
    """
    single = not isinstance(value, list)
    items = [value] if single else value
    if not items:
        raise InvalidInput(f"{name}: must have at least one item", param=name)
    InputLimits.of(settings).check(len(items))
    for index, item in enumerate(items):
        if not isinstance(item, str | dict):
            error = InvalidInput("must be a string, or an object with text, image or video")
            raise locate(error, name, None if single else index)
    request = OpenAIRequest(input=items, input_type=role, modality="image" if images else None)
    try:
        if len(items) <= MAX_INLINE_ITEMS:
            inputs = read_items(request, settings)
        else:
            inputs = await asyncio.to_thread(read_items, request, settings)
    except EmbeddingError as error:
        raise locate(error, name, None if single else error.index) from None
    return ScoredField(name, split_texts(inputs), single)


def split_texts(inputs: Sequence[Embeddable]) -> list[Embeddable]:
    """A list of texts as one input each, so that an error tells which of them it is about."""
    return [
        part
        for each in inputs
        for part in (
            (Texts([text], each.role, each.instruction, many=False) for text in each.texts)
            if isinstance(each, Texts)
            else (each,)
        )
    ]


async def embed_fields(
    request: Request, engine: Engine, fields: Sequence[ScoredField]
) -> tuple[list[Vectors], int]:
    """The vectors of each field [its inputs, dimension], and the tokens of all.

    Raises as `Engine.embed_inputs`, with the item named.
    """
    inputs = [each for field in fields for each in field.inputs]
    try:
        results = await cancel_on_disconnect(request, engine.embed_inputs(inputs))
    except EmbeddingError as error:
        if error.index is None:
            raise
        raise _locate_input(error, fields) from None
    rows = np.concatenate([result.vectors for result in results])
    edges = pairwise(accumulate((len(field.inputs) for field in fields), initial=0))
    return [rows[start:end] for start, end in edges], sum(result.tokens for result in results)


def _locate_input(error: EmbeddingError, fields: Sequence[ScoredField]) -> EmbeddingError:
    place = error.index or 0
    for field in fields:
        if place < len(field.inputs):
            return field.locate(error, place)
        place -= len(field.inputs)
    return error


async def score_documents(
    request: Request, engine: Engine, query: ScoredField, documents: ScoredField
) -> tuple[Scores, int]:
    """How relevant each document is to the query [documents], and the tokens of all.

    The only place that knows that a score is a cosine: a model that reads a query and a document
    together, and has no vectors, gives its own scores here.
    """
    (vector, rows), tokens = await embed_fields(request, engine, (query, documents))
    return cosines(vector, rows)[0], tokens
