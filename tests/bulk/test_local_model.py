"""A job whose model runs in its own process, over a fake graph."""

from __future__ import annotations

import asyncio

import numpy as np

from multimodal_embedding_serving.bulk.models import LocalModel
from multimodal_embedding_serving.settings import Settings
from tests.api.fakes import DIMENSION, fake_engine, text_row
from tests.fakes import FakeGraph, vector_of


def test_a_job_waits_for_a_text_beyond_the_deadline_of_requests() -> None:
    """That deadline has passed when the graph is allowed to answer, however fast the machine."""
    settings = Settings(request_timeout=0.001)
    graph = FakeGraph(DIMENSION)

    async def embed() -> np.ndarray:
        model = LocalModel(fake_engine(settings, {"text": graph}), settings, None)
        graph.hold()
        task = asyncio.create_task(model.texts(["a long text"]))
        await asyncio.to_thread(graph.wait_for_call)
        await asyncio.sleep(10 * settings.request_timeout)
        graph.release()
        vectors = await task
        await model.aclose()
        return vectors

    (vector,) = asyncio.run(embed())
    np.testing.assert_allclose(vector, vector_of(text_row("a long text", "document")), atol=1e-6)
