"""Text finds photos with the embedded model, through HTTP."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import numpy as np
import pytest

from multimodal_embedding_serving.types import Vectors
from tests.conftest import Figure
from tests.retrieval import list_photos, rank, read_queries, score
from tests.serving import PATIENCE, Running

SURE = ("a cat", "a cup of coffee", "a motorcycle", "a rocket", "coins")


@pytest.fixture(scope="module")
def ranks(server: Running) -> dict[str, int]:
    """Query -> the place of its photo, as a client of the server finds it."""
    with httpx2.Client(base_url=server.url, timeout=PATIENCE) as client:

        def embed(item: dict[str, Any]) -> Vectors:
            answer = client.post("/embeddings", json={"input": item})
            assert answer.status_code == 200, answer.text
            return np.array(answer.json()["embedding"], np.float32)

        texts = [query.text for query in read_queries()]
        actual = embed({"type": "text", "text": texts})
        photos = [base64.b64encode(path.read_bytes()).decode() for path in list_photos()]
        shown = [embed({"type": "image_base64", "image_base64": photo}) for photo in photos]
    return dict(zip(texts, rank(actual, np.stack(shown)), strict=True))


def test_three_of_five_queries_find_their_photo_first(
    ranks: dict[str, int], figure: Figure
) -> None:
    actual = score(list(ranks.values()))
    assert actual.recall_1 >= 60
    figure(f"retrieval over HTTP: recall@1 {actual.recall_1} %, @3 {actual.recall_3} %")


@pytest.mark.parametrize("query", SURE)
def test_a_plain_query_finds_its_photo_among_all(ranks: dict[str, int], query: str) -> None:
    assert ranks[query] == 1
