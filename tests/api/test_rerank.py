"""POST /v1/rerank and /v2/rerank, over real sockets and fake graphs."""

from __future__ import annotations

from typing import Any

import httpx2
import numpy as np
import pytest

from tests.api.test_classify import DAMAGED, IMAGE, URI, ask, document, query
from tests.api.test_native import image_vector

PATHS = ("/v1/rerank", "/v2/rerank")
TEXTS = ["a", "b", "c", "a"]


@pytest.mark.parametrize("path", PATHS)
def test_documents_are_ordered_by_their_cosine_and_ties_by_index(
    http: httpx2.Client, path: str
) -> None:
    documents = [*TEXTS, {"text": "d"}, {"image": URI}]
    answer = ask(http, path, query="q", documents=documents, model="clip-vit-b-32")
    vectors = [*(document(each) for each in "abcad"), image_vector(IMAGE).astype(np.float64)]
    cosines = [float(query("q") @ each) for each in vectors]
    results = answer["results"]
    order = sorted(range(6), key=lambda place: (-round(cosines[place], 6), place))
    assert [each["index"] for each in results] == order
    found = [each["relevance_score"] for each in results]
    assert np.allclose(found, [cosines[place] for place in order], atol=1e-6)
    assert all(set(each) == {"index", "relevance_score"} for each in results)
    assert (answer["object"], answer["model"]) == ("rerank", "clip-vit-b-32")
    assert answer["id"]
    assert answer["usage"] == {"prompt_tokens": 16, "total_tokens": 16}
    assert answer["meta"]["billed_units"] == {"search_units": 1}


@pytest.mark.parametrize(("top_n", "count"), [(2, 2), (99, 4), (0, 4), (None, 4)])
def test_top_n_bounds_the_results(http: httpx2.Client, top_n: int | None, count: int) -> None:
    whole = ask(http, "/v2/rerank", query="q", documents=TEXTS)["results"]
    answer = ask(http, "/v2/rerank", query="q", documents=TEXTS, top_n=top_n)
    assert answer["results"] == whole[:count]


def test_documents_are_returned_on_request(http: httpx2.Client) -> None:
    documents = ["a", {"text": "b"}, {"image": URI}]
    body: dict[str, Any] = {"query": {"text": "q"}, "documents": documents, "rank_fields": ["text"]}
    results = ask(http, "/v1/rerank", **body, return_documents=True)["results"]
    found = {each["index"]: each["document"] for each in results}
    assert found == {0: {"text": "a"}, 1: {"text": "b"}, 2: {"image": URI}}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"documents": ["a"]}, "query: is required"),
    ({"query": "q"}, "documents: is required"),
    ({"query": "q", "documents": []}, "documents: "),
    ({"query": "q", "documents": "a"}, "documents: must be a valid list"),
    ({"query": ["q"], "documents": ["a"]}, "query: must be one item, not a list"),
    ({"query": "", "documents": ["a"]}, "query: must not be empty"),
    ({"query": "q", "documents": ["a", ""]}, "documents[1]: must not be empty"),
    ({"query": "q", "documents": ["a", 7]}, "documents[1]: must be a string"),
    ({"query": "q", "documents": ["a", DAMAGED]}, "documents[1]: "),
    ({"query": "q", "documents": ["a"], "top_n": -1}, "top_n: "),
    ({"query": "q", "documents": ["a"], "rank_fields": ["title"]}, "rank_fields: only ['text']"),
]


@pytest.mark.parametrize(("body", "message"), WRONG)
def test_errors_have_the_format_of_the_dialect(
    http: httpx2.Client, body: dict[str, Any], message: str
) -> None:
    openai = ask(http, "/v1/rerank", 400, **body)["error"]
    assert openai["type"] == "invalid_request_error"
    assert openai["message"].startswith(message)
    assert ask(http, "/v2/rerank", 422, **body)["message"].startswith(message)


def test_another_model_is_the_dialects_error(http: httpx2.Client) -> None:
    body = {"query": "q", "documents": TEXTS, "model": "rerank-v3.5"}
    assert ask(http, "/v1/rerank", 404, **body)["error"]["code"] == "model_not_found"
    assert "rerank-v3.5" in ask(http, "/v2/rerank", 404, **body)["message"]
