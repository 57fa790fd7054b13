"""What the dialects of applications share: from inputs to vectors, and from vectors to JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
from fastapi import Request
from starlette.responses import Response

from multimodal_embedding_serving.api.disconnect import cancel_on_disconnect
from multimodal_embedding_serving.api.errors import json_response
from multimodal_embedding_serving.api.service import Service
from multimodal_embedding_serving.api.vectors import FINGERPRINT, MAX_INLINE_NUMBERS, encode
from multimodal_embedding_serving.engine.results import EmbeddingResult
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.inputs.items import Embeddable
from multimodal_embedding_serving.types import Vectors


async def embed(
    request: Request,
    service: Service,
    inputs: Sequence[Embeddable],
    *,
    dimensions: int | None = None,
    field: str = "input",
) -> tuple[Vectors, Sequence[EmbeddingResult]]:
    """Vectors float32 [items, dimension] in order, and the results that they come from.

    Raises the engine's errors, with `field` as the name of the list that has the item at fault, and
    ClientDisconnect.
    """
    engine = service.ready_engine()
    if not inputs:
        return np.empty((0, engine.info.dimension), np.float32), []
    try:
        work = engine.embed_inputs(inputs, dimensions=dimensions)
        results = await cancel_on_disconnect(request, work)
    except EmbeddingError as error:
        if error.index is not None:
            error.param = field
        raise
    return np.concatenate([result.vectors for result in results]), results


async def vectors_response(
    service: Service, vectors: Vectors, body: Callable[[list[orjson.Fragment]], Any]
) -> Response:
    """The JSON of `body`, which gets each vector as JSON; made on a thread if there are many."""
    headers = {FINGERPRINT: service.ready_engine().info.fingerprint}

    def respond() -> Response:
        return json_response(body([encode(row, "float") for row in vectors]), headers=headers)

    return respond() if vectors.size <= MAX_INLINE_NUMBERS else await asyncio.to_thread(respond)


def count_tokens(results: Sequence[EmbeddingResult]) -> int:
    return sum(result.tokens for result in results)
