"""POST /classify and POST /score, over real sockets and fake graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.api.fakes import Start, text_row
from tests.api.test_native import b64, image_vector
from tests.fakes import vector_of
from tests.media_files import photo, write_image

IMAGE = write_image("PNG", photo(32, 24))
URI = f"data:image/png;base64,{b64(IMAGE)}"
DAMAGED = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD"
Numbers = NDArray[np.float64]


def ask(http: httpx2.Client, path: str, status: int = 200, **body: Any) -> Any:
    answer = http.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def document(text: str) -> Numbers:
    return vector_of(text_row(text, "document")).astype(np.float64)


def query(text: str) -> Numbers:
    return vector_of(text_row(text, "query")).astype(np.float64)


def softmax(rows: Sequence[Numbers], columns: Sequence[Numbers], scale: float = 100) -> Numbers:
    logits = scale * np.stack(rows) @ np.stack(columns).T
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def scores(answer: Any) -> Numbers:
    return np.array([each["scores"] for each in answer["data"]])


def test_texts_are_classified_by_the_bare_labels(http: httpx2.Client) -> None:
    labels = ["sports", "politics", "food"]
    answer = ask(http, "/classify", input=["a", {"text": "b"}], labels=labels)
    expected = softmax([document("a"), document("b")], [document(each) for each in labels])
    assert np.allclose(scores(answer), expected, atol=1e-6)
    assert answer["labels"] == labels
    assert [each["index"] for each in answer["data"]] == [0, 1]
    assert [each["label"] for each in answer["data"]] == [labels[row.argmax()] for row in expected]
    assert (answer["activation"], answer["calibrated"]) == ("softmax", True)
    assert answer["usage"]["total_tokens"] == sum(map(len, labels)) + 3 + 2 * 2


def test_images_are_classified_by_photos_of_the_labels(http: httpx2.Client) -> None:
    photos = [document(f"a photo of a {each}") for each in ("cat", "dog")]
    expected = softmax([image_vector(IMAGE).astype(np.float64)], photos)
    for body in ({"input": {"image": URI}}, {"images": b64(IMAGE)}, {"images": [URI]}):
        answer = ask(http, "/classify", labels=["cat", "dog"], **body)
        assert np.allclose(scores(answer), expected, atol=1e-6)


def test_texts_and_images_of_one_request_have_the_templates_of_their_kind(
    http: httpx2.Client,
) -> None:
    answer = ask(http, "/classify", input=["a", URI, "b"], labels=["cat", "dog"])
    plain = [document(each) for each in ("cat", "dog")]
    photos = [document(f"a photo of a {each}") for each in ("cat", "dog")]
    first, last = softmax([document("a"), document("b")], plain)
    middle = softmax([image_vector(IMAGE).astype(np.float64)], photos)
    assert np.allclose(scores(answer), [first, middle[0], last], atol=1e-6)


def test_the_vectors_of_several_templates_are_averaged(http: httpx2.Client) -> None:
    templates = ["a {}", "the {} of {}"]
    answer = ask(http, "/classify", input="x", labels=["cat", "dog"], template=templates)
    means = [document(f"a {each}") + document(f"the {each} of {each}") for each in ("cat", "dog")]
    expected = softmax([document("x")], [each / np.linalg.norm(each) for each in means])
    assert np.allclose(scores(answer), expected, atol=1e-6)


def test_a_bias_makes_it_a_sigmoid_and_the_activation_can_be_chosen(start: Start) -> None:
    logits = 3 * np.array([document("x") @ document(each) for each in ("cat", "dog")]) - 2
    sigmoid = 1 / (1 + np.exp(-logits))
    server = start(facts={"logit_scale": 3.0, "logit_bias": -2.0})
    with httpx2.Client(base_url=server.url) as http:
        answer = ask(http, "/classify", input="x", labels=["cat", "dog"])
        assert answer["activation"] == "sigmoid"
        assert np.allclose(scores(answer), [sigmoid], atol=1e-6)
        chosen = ask(http, "/classify", input="x", labels=["cat", "dog"], activation="softmax")
        assert np.allclose(
            scores(chosen),
            softmax([document("x")], [document("cat"), document("dog")], 3),
            atol=1e-6,
        )


def test_a_model_without_a_scale_has_that_of_clip_and_says_so(start: Start) -> None:
    with httpx2.Client(base_url=start(facts={"logit_scale": None}).url) as http:
        answer = ask(http, "/classify", input="x", labels=["cat", "dog"])
        expected = softmax([document("x")], [document("cat"), document("dog")])
        assert np.allclose(scores(answer), expected, atol=1e-6)
        assert answer["calibrated"] is False


def test_score_is_the_cosine_of_a_query_and_documents_in_their_order(http: httpx2.Client) -> None:
    vectors = [document("a"), image_vector(IMAGE).astype(np.float64), document("b")]
    expected = [float(query("q") @ each) for each in vectors]
    for names in (("query", "documents"), ("text_1", "text_2"), ("query", "text_2")):
        body: dict[str, Any] = dict(zip(names, ("q", ["a", {"image": URI}, "b"]), strict=True))
        data = ask(http, "/score", **body)["data"]
        assert [each["index"] for each in data] == [0, 1, 2]
        assert np.allclose([each["score"] for each in data], expected, atol=1e-6)
    (single,) = ask(http, "/score", query={"image": URI}, documents="b")["data"]
    assert single["score"] == pytest.approx(float(vectors[1] @ vectors[2]), abs=1e-6)


LABELS = {"labels": ["cat", "dog"]}
WRONG: list[tuple[str, dict[str, Any], int, str]] = [
    ("/classify", {"input": "a"}, 400, "labels: is required"),
    ("/classify", {"input": "a", "labels": []}, 422, "labels: "),
    ("/classify", {"input": "a", "labels": ["cat", " "]}, 422, "labels[1]: must be a string"),
    ("/classify", {"input": "a", "labels": ["cat", 5]}, 422, "labels[1]: "),
    ("/classify", {**LABELS}, 422, "exactly one of input and images is required"),
    ("/classify", {**LABELS, "input": []}, 422, "input: must have at least one item"),
    ("/classify", {**LABELS, "input": ["a", ""]}, 422, "input[1]: must not be empty"),
    ("/classify", {**LABELS, "input": [[5]]}, 422, "input[0]: must be a string"),
    ("/classify", {**LABELS, "input": ["a", DAMAGED]}, 422, "input[1]: "),
    ("/classify", {**LABELS, "images": DAMAGED}, 422, "images: "),
    ("/classify", {**LABELS, "input": "a", "images": URI}, 422, "exactly one of input and images"),
    ("/classify", {**LABELS, "input": "a", "template": "photo"}, 422, "template: must contain {}"),
    ("/classify", {**LABELS, "input": "a", "template": ["{}", "x"]}, 422, "template[1]: must cont"),
    ("/classify", {**LABELS, "input": "a", "template": []}, 422, "template: must have at least"),
    ("/classify", {**LABELS, "input": "a", "activation": "relu"}, 422, "activation: "),
    ("/classify", {**LABELS, "input": "a", "raw_scores": True}, 422, "raw_scores: "),
    ("/classify", {**LABELS, "input": "a", "model": "gpt-4"}, 400, "Model mismatch"),
    ("/score", {"query": "a"}, 422, "exactly one of documents and text_2 is required"),
    ("/score", {"documents": "a"}, 422, "exactly one of query and text_1 is required"),
    ("/score", {"query": ["a"], "documents": "a"}, 422, "query: must be one item, not a list"),
    ("/score", {"query": "a", "text_2": ["b", DAMAGED]}, 422, "text_2[1]: "),
    ("/score", {"text_1": {"audio": "b"}, "text_2": ["b"]}, 422, "text_1: must have exactly one"),
    ("/score", {"query": "a", "documents": "b", "top_n": 1}, 422, "top_n: "),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), WRONG)
def test_what_is_wrong_is_named(
    http: httpx2.Client, path: str, body: dict[str, Any], status: int, message: str
) -> None:
    assert ask(http, path, status, **body)["detail"].startswith(message)


def test_an_image_on_a_model_of_texts_is_named(start: Start) -> None:
    with httpx2.Client(base_url=start(("text",)).url) as http:
        answer = ask(http, "/classify", 400, input=["a", URI], labels=["cat"])
        assert answer["code"] == "modality_not_supported"
        assert answer["detail"].startswith("input[1]: ")
        assert answer["index"] == 1
    with httpx2.Client(base_url=start(("image",)).url) as http:
        answer = ask(http, "/classify", 400, images=[URI], labels=["cat"])
        assert answer["detail"].startswith("labels[0]: ")


def test_labels_and_inputs_count_as_one_request(start: Start) -> None:
    server = start(max_items=6, request_timeout=0.5)
    with httpx2.Client(base_url=server.url) as http:
        many = ask(http, "/classify", 413, input=["a", "b", "c"], labels=["x", "y", "z", "w"])
        assert "EMBEDDING_MAX_ITEMS" in many["detail"]
        server.graphs["text"].hold()
        late = ask(http, "/score", 504, query="slow", documents=["pokes"])
        assert late["code"] == "deadline_exceeded"
        server.graphs["text"].release()
        metrics = http.get("/metrics").text
    for path, status in (("/classify", 413), ("/score", 504)):
        assert any(f'"{path}"' in line and f'"{status}"' in line for line in metrics.splitlines())
