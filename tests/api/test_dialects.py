"""What clients of Jina's and NVIDIA's embeddings send to /v1/embeddings, by plain HTTP."""

from __future__ import annotations

import base64
from typing import Any

import httpx2
import numpy as np
import pytest

from multimodal_embedding_serving.types import Vector
from tests.api.fakes import MAX_LENGTH, Start, text_row
from tests.api.test_native import b64, image_vector
from tests.fakes import vector_of
from tests.media_files import write_image, write_video

IMAGE = write_image("png")
URI = f"data:image/png;base64,{b64(IMAGE)}"
VIDEO = f"data:video/mp4;base64,{b64(write_video(frames=4))}"
LONG = "x" * (MAX_LENGTH + 1)


def ask(http: httpx2.Client, status: int = 200, **body: Any) -> Any:
    answer = http.post("/v1/embeddings", json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def vectors(http: httpx2.Client, **body: Any) -> list[Any]:
    return [each["embedding"] for each in ask(http, **body)["data"]]


def test_jinas_documented_request_is_answered(http: httpx2.Client) -> None:
    """Texts and images side by side, with every field that Jina documents."""
    actual = vectors(
        http,
        model="clip-vit-b-32",
        input=[{"text": "a cat"}, {"image": URI}, {"image": b64(IMAGE)}],
        task="retrieval.passage",
        normalized=True,
        embedding_type="float",
        late_chunking=False,
        truncate=True,
        dimensions=8,
    )
    expected = [vector_of(text_row("a cat", "document")), *[image_vector(IMAGE)] * 2]
    assert np.allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("task", "role"),
    [
        ("retrieval.query", "query"),
        ("retrieval.passage", "document"),
        ("code.query", "query"),
        ("text-matching", None),
        ("query", None),
        ("", None),
    ],
)
def test_jinas_task_says_what_a_text_is(http: httpx2.Client, task: str, role: str | None) -> None:
    assert np.allclose(vectors(http, input=["a"], task=task), vector_of(text_row("a", role)))


def test_input_type_goes_before_the_task(http: httpx2.Client) -> None:
    actual = vectors(http, input=["a"], task="retrieval.passage", input_type="query")
    assert np.allclose(actual, vector_of(text_row("a", "query")))


def test_jinas_embedding_types_go_before_the_encoding_format(http: httpx2.Client) -> None:
    expected: Vector = image_vector(IMAGE)
    body = {"input": [{"image": URI}], "encoding_format": "float"}
    (bits,) = vectors(http, **body, embedding_type="ubinary")
    assert bits == np.packbits(expected > 0).tolist()
    (levels,) = vectors(http, **body, embedding_type="int8")
    assert np.abs(levels).max() == 127
    assert np.dot(levels, expected) / np.linalg.norm(levels) > 0.999
    (text,) = vectors(http, **body, embedding_type="base64")
    assert text == b64(expected.astype("<f4").tobytes())


@pytest.mark.parametrize("truncate", ["END", True, None])
def test_a_long_text_is_cut_where_it_may_be(http: httpx2.Client, truncate: object) -> None:
    answer = ask(http, input=["a", LONG], truncate=truncate)
    assert answer["usage"]["truncated"] is True


@pytest.mark.parametrize("truncate", ["NONE", False])
def test_a_long_text_is_refused_where_it_must_not_be_cut(
    http: httpx2.Client, truncate: object
) -> None:
    error = ask(http, 400, input=["a", LONG], truncate=truncate)["error"]
    assert error["param"] == "truncate"
    assert ask(http, input=["a"], truncate=truncate)["data"]


def test_nvidias_documented_request_is_answered(http: httpx2.Client) -> None:
    """Data URIs as plain strings, and what each of them is."""
    actual = vectors(
        http,
        model="clip-vit-b-32",
        input=["a cat", URI, VIDEO],
        modality=["text", "image", "video"],
        input_type="passage",
        encoding_format="float",
        truncate="NONE",
    )
    expected = [vector_of(text_row("a cat", "document")), image_vector(IMAGE)]
    assert np.allclose(actual[:2], expected, atol=1e-6)
    assert np.isclose(np.linalg.norm(actual[2]), 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("truncate", "START"), ("embedding_type", "hex"), ("input_type", "poem"), ("task", 5)],
)
def test_a_value_that_is_not_known_is_named(http: httpx2.Client, field: str, value: object) -> None:
    error = ask(http, 400, input=["a"], **{field: value})["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(field)


# ── text that begins as a data URI does ──


DATES = ("Data: 12 maggio 2024, Roma", 'data: {"id": 7}', "data:image/png;base64, is how it begins")


@pytest.mark.parametrize("text", DATES)
def test_a_text_that_begins_with_data_is_a_text(http: httpx2.Client, text: str) -> None:
    expected = vector_of(text_row(text))
    assert np.allclose(vectors(http, input=text), [expected])
    both = vectors(http, input=[text, f"\n {URI}"])
    assert np.allclose(both, [expected, image_vector(IMAGE)], atol=1e-6)


def test_modality_text_makes_a_data_uri_a_text(http: httpx2.Client) -> None:
    expected = vector_of(text_row(URI))
    assert np.allclose(vectors(http, input=URI, modality="text"), [expected])
    mixed = vectors(http, input=[URI, URI], modality=["text", "image"])
    assert np.allclose(mixed, [expected, image_vector(IMAGE)], atol=1e-6)


def test_coheres_texts_are_never_media(http: httpx2.Client) -> None:
    texts = [URI, *DATES]
    answer = http.post("/v2/embed", json={"texts": texts, "input_type": "search_query"})
    expected = [vector_of(text_row(text, "query")) for text in texts]
    assert np.allclose(answer.json()["embeddings"]["float"], expected)


@pytest.mark.parametrize("spelling", ["base64url", "no padding", "lines"])
def test_base64_is_accepted_as_libraries_write_it(http: httpx2.Client, spelling: str) -> None:
    text = {
        "base64url": b64(IMAGE).replace("+", "-").replace("/", "_"),
        "no padding": b64(IMAGE).rstrip("="),
        "lines": "\r\n".join(b64(IMAGE)[at : at + 76] for at in range(0, len(b64(IMAGE)), 76)),
    }[spelling]
    items = [{"image": text}, f"data:image/png;base64,{text}", {"image": f" {URI}"}]
    assert np.allclose(vectors(http, input=items), [image_vector(IMAGE)] * 3, atol=1e-6)
    native = http.post(
        "/embeddings", json={"input": {"type": "image_base64", "image_base64": text}}
    )
    assert np.allclose(native.json()["embedding"], image_vector(IMAGE), atol=1e-6)
    by_url = {"type": "image_url", "image_url": f"\n{URI}"}
    native = http.post("/embeddings", json={"input": by_url})
    assert np.allclose(native.json()["embedding"], image_vector(IMAGE), atol=1e-6)


# ── options of clients that decode what they asked for ──


def unpacked(text: str, dtype: str) -> list[float]:
    numbers: list[float] = np.frombuffer(base64.b64decode(text), dtype).tolist()
    return numbers


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("float", "<f4"), ("int8", "i1"), ("uint8", "u1"), ("binary", "i1"), ("ubinary", "u1")],
)
def test_voyages_types_are_sent_as_numbers_and_as_the_base64_of_their_bytes(
    http: httpx2.Client, kind: str, dtype: str
) -> None:
    (row,) = vectors(http, input=["a"], output_dtype=kind)
    (text,) = vectors(http, input=["a"], output_dtype=kind, encoding_format="base64")
    assert np.allclose(unpacked(text, dtype), row, atol=1e-6)
    expected = vector_of(text_row("a"))
    bits = np.packbits(expected > 0).astype(int)
    if kind == "float":
        assert np.allclose(row, expected, atol=1e-6)
    elif kind.endswith("binary"):
        assert row == (bits - 128 * (kind == "binary")).tolist()
    else:
        signed = np.array(row) - 128 * (kind == "uint8")
        assert signed @ expected / np.linalg.norm(signed) > 0.999


@pytest.mark.parametrize("name", ["embedding_type", "encoding_type"])
def test_jinas_types_override_the_encoding_format(http: httpx2.Client, name: str) -> None:
    (bits,) = vectors(http, input=["a"], encoding_format="base64", **{name: "ubinary"})
    assert bits == np.packbits(vector_of(text_row("a")) > 0).tolist()


def test_voyages_output_dimension_is_the_length_of_the_vectors(start: Start) -> None:
    url = start(facts={"min_dimension": 2}).url
    with httpx2.Client(base_url=url) as client:
        head = vector_of(text_row("a"))[:4]
        expected = head / np.linalg.norm(head)
        assert np.allclose(vectors(client, input=["a"], output_dimension=4), [expected])
        error = ask(client, 400, input=["a"], output_dimension=4, dimensions=2)["error"]
        assert error["param"] == "output_dimension"


@pytest.mark.parametrize("name", ["dimensions", "output_dimension"])
def test_a_dimension_of_0_means_all(http: httpx2.Client, name: str) -> None:
    assert np.allclose(vectors(http, input=["a"], **{name: 0}), [vector_of(text_row("a"))])
    assert ask(http, 400, input=["a"], **{name: -1})["error"]["param"] == name


def test_voyages_truncation_false_rejects_a_long_text(http: httpx2.Client) -> None:
    error = ask(http, 400, input=["a", LONG], truncation=False)["error"]
    assert error["param"] == "truncation"
    assert "truncation=true" in error["message"]
    for allowed in (True, None):
        assert ask(http, input=["a", LONG], truncation=allowed)["usage"]["truncated"] is True


def test_late_chunking_and_contradictions_are_rejected(http: httpx2.Client) -> None:
    assert ask(http, 400, input=["a"], late_chunking=True)["error"]["param"] == "late_chunking"
    body = {"embedding_type": "int8", "output_dtype": "uint8"}
    assert ask(http, 400, input=["a"], **body)["error"]["param"] == "output_dtype"
    same = {"embedding_type": "int8", "output_dtype": "int8", "encoding_type": None}
    assert np.abs(vectors(http, input=["a"], **same)).max() == 127


def test_images_have_the_keys_of_langchains_and_llamaindexs_clients_of_jina(
    http: httpx2.Client,
) -> None:
    actual = vectors(http, input=[{"bytes": b64(IMAGE)}, {"url": URI}])
    assert np.allclose(actual, [image_vector(IMAGE)] * 2, atol=1e-6)
    refused = ask(http, 400, input=[{"bytes": b64(IMAGE), "text": "a"}])["error"]
    assert "exactly one" in refused["message"]


def test_an_error_is_where_the_clients_of_voyage_and_jina_look_for_it(http: httpx2.Client) -> None:
    answer = ask(http, 404, input="a", model="voyage-3")
    assert answer["detail"] == answer["error"]["message"]


# ── conversations, as vLLM takes them ──


def message(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": list(parts) if len(parts) != 1 else parts[0]}


PICTURE = {"type": "image_url", "image_url": {"url": URI}}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings"])
@pytest.mark.parametrize("name", ["messages", "input"])
def test_a_conversation_has_one_vector(http: httpx2.Client, path: str, name: str) -> None:
    text = {"type": "text", "text": "a"}
    chats = [[message("a")], [message([PICTURE])], [message(text, PICTURE)]]
    own, seen = vector_of(text_row("a")), image_vector(IMAGE)
    expected = [own, seen, (own + seen) / np.linalg.norm(own + seen)]
    for chat, vector in zip(chats, expected, strict=True):
        answer = http.post(path, json={name: chat, "add_generation_prompt": False})
        assert answer.status_code == 200, answer.text
        assert np.allclose([each["embedding"] for each in answer.json()["data"]], [vector])
    answer = http.post(path, json={name: chats, "encoding_format": None})
    assert np.allclose([each["embedding"] for each in answer.json()["data"]], expected, atol=1e-6)


def test_a_system_message_is_the_instruction(http: httpx2.Client) -> None:
    chat = [message("Find", role="system"), message("a")]
    expected = vector_of(text_row("a", "query", "Find"))
    assert np.allclose(vectors(http, messages=chat, input_type="query"), [expected])
    others = [chat, [message("Sort", role="system"), message("a")]]
    assert ask(http, 400, messages=others)["error"]["param"] == "messages"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content: is required"),
        ({"messages": [message("a")], "input": [message("a")]}, "must not be sent with input"),
        ({"messages": [[message("a")], [message("")]]}, "messages[1]: must not be empty"),
        ({"messages": [message("a", role="system")]}, "has no content"),
        ({"messages": [message({"text": "a"}, PICTURE, role="system")]}, "has text only"),
        ({"messages": [message("a")], "model": "gpt-4"}, "does not exist"),
    ],
)
def test_a_wrong_conversation_is_named(http: httpx2.Client, body: Any, expected: str) -> None:
    answer = http.post("/v1/embeddings", json=body)
    assert answer.status_code in (400, 404)
    assert expected in answer.json()["error"]["message"]
