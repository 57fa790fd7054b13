"""Cohere's API, version 2, over real sockets and fake graphs."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multimodal_embedding_serving.api.vectors import quantize
from multimodal_embedding_serving.types import Vector
from tests.api.fakes import MAX_LENGTH, Start, text_row
from tests.api.test_native import b64, image_vector
from tests.fakes import vector_of
from tests.media_files import photo, write_image

IMAGE = write_image("PNG", photo(32, 24))
URI = f"data:image/png;base64,{b64(IMAGE)}"
DAMAGED_URI = "data:image/png;base64,AAAA"
TEXT = {"type": "text", "text": "a"}
DAMAGED = {"type": "image_url", "image_url": {"url": DAMAGED_URI}}
ONE_PART = {"content": [TEXT]}


def ask(http: httpx2.Client, status: int = 200, **body: Any) -> Any:
    answer = http.post("/v2/embed", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_texts_are_documents_and_the_answer_is_by_type(http: httpx2.Client) -> None:
    answer = ask(http, texts=["a", "b"], model="clip-vit-b-32", input_type="search_document")
    expected = [vector_of(text_row(text, "document")) for text in "ab"]
    assert np.allclose(answer["embeddings"]["float"], expected, atol=1e-6)
    assert list(answer["embeddings"]) == ["float"]
    assert answer["response_type"] == "embeddings_by_type"
    assert answer["texts"] == ["a", "b"]
    assert answer["meta"]["api_version"]["version"] == "2"
    assert answer["meta"]["billed_units"] == {"input_tokens": 4}


def test_a_search_query_is_a_query(http: httpx2.Client) -> None:
    answer = ask(http, texts=["a"], input_type="search_query")
    assert np.allclose(answer["embeddings"]["float"], [vector_of(text_row("a", "query"))])


def test_every_type_is_answered_beside_the_others(http: httpx2.Client) -> None:
    kinds = ["float", "base64", "int8", "uint8", "binary", "ubinary"]
    actual = ask(http, images=[URI], input_type="image", embedding_types=kinds)["embeddings"]
    assert list(actual) == kinds
    expected = image_vector(IMAGE)
    assert np.array_equal(np.float32(actual["float"][0]), expected)
    assert np.array_equal(np.frombuffer(base64.b64decode(actual["base64"][0]), "<f4"), expected)
    assert np.array_equal(np.array(actual["uint8"][0]) - 128, actual["int8"][0])
    assert np.array_equal(np.unpackbits(np.uint8(actual["ubinary"][0])), expected > 0)
    assert np.array_equal(np.array(actual["binary"][0]) + 128, actual["ubinary"][0])


def test_parts_of_one_input_are_fused(http: httpx2.Client) -> None:
    text, image = {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": URI}}
    answer = ask(http, inputs=[{"content": [text, image]}, {"content": [text]}])
    expected = [vector_of(text_row("a", "document")), image_vector(IMAGE)]
    mean = np.mean(expected, axis=0)
    actual = np.array(answer["embeddings"]["float"])
    assert np.allclose(actual, [mean / np.linalg.norm(mean), expected[0]], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 422, "exactly one of texts, images and inputs"),
        ({"texts": []}, 422, "exactly one of texts"),
        ({"texts": ["a"], "images": [URI]}, 422, "exactly one of texts"),
        ({"texts": ["a", ""]}, 422, "texts[1]: must not be empty"),
        ({"texts": ["a", 5]}, 422, "texts[1]: "),
        ({"texts": ["a"], "model": "embed-v4.0"}, 404, "The model 'embed-v4.0' does not exist"),
        ({"texts": ["a"], "output_dimension": 3}, 400, "dimensions=3 is not allowed"),
        ({"texts": ["a"], "truncate": "START"}, 422, "truncate"),
        ({"inputs": [{"content": []}]}, 422, "inputs[0].content: must not be empty"),
        (
            {"inputs": [{"content": "a"}, {"content": ""}]},
            422,
            "inputs[1].content: must not be empty",
        ),
        ({"images": [URI, DAMAGED_URI]}, 415, "images[1]: "),
        ({"inputs": [ONE_PART, {"content": [TEXT, DAMAGED]}]}, 415, "inputs[1].content[1]: "),
        ({"inputs": [ONE_PART, {"content": [{"type": "text"}]}]}, 422, "inputs[1].content[0]: "),
    ],
)
def test_a_refusal_has_coheres_shape(
    http: httpx2.Client, body: dict[str, Any], status: int, said: str
) -> None:
    assert ask(http, status, **body)["message"].startswith(said)


def test_a_long_text_is_refused_where_it_must_not_be_cut(http: httpx2.Client) -> None:
    long = "x" * (MAX_LENGTH + 1)
    assert "truncate=END" in ask(http, 422, texts=["a", long], truncate="NONE")["message"]
    assert ask(http, texts=["a", long], truncate="END")["embeddings"]


def test_a_missing_key_is_told_in_coheres_shape(start: Start) -> None:
    with httpx2.Client(base_url=start(api_keys=("k",)).url) as http:
        assert "API key" in ask(http, 401, texts=["a"])["message"]


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=64))
def test_eight_bits_keep_a_vectors_direction(numbers: list[float]) -> None:
    vector: Vector = np.array(numbers, np.float32)
    levels = quantize(vector, "int8").astype(np.float64)
    if np.abs(vector).max() > 1e-30:
        step = np.abs(vector).max() / 127
        assert np.abs(levels * step - vector).max() <= step * 0.51
    assert np.array_equal(quantize(vector, "uint8").astype(int) - 128, levels)
    bits = np.unpackbits(quantize(vector, "ubinary"))[: len(vector)]
    assert np.array_equal(bits.astype(bool), vector > 0)
