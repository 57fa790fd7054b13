"""Images and videos as form uploads: the form, its faults, and what reaches the graph."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.api.multipart import FORM, split_form
from multimodal_embedding_serving.errors import EmbeddingError
from tests.api.fakes import Start, text_row
from tests.api.test_native import image_vector
from tests.fakes import vector_of
from tests.media_files import photo, write_image, write_video

IMAGE = write_image("PNG", photo(32, 24))
OTHER = write_image("JPEG", photo(20, 40))


def send(http: httpx2.Client, parts: Any, status: int = 200, **fields: str) -> Any:
    answer = http.post("/v1/embeddings", files=parts, data=fields)
    assert answer.status_code == status, answer.text
    return answer.json()


def vectors(answer: Any) -> list[list[float]]:
    return [each["embedding"] for each in answer["data"]]


def test_files_and_texts_are_items_in_the_order_of_the_form(http: httpx2.Client) -> None:
    parts = [
        ("file", ("a.png", IMAGE, "image/png")),
        ("input", (None, "a cat")),
        ("file", ("b", OTHER, "application/octet-stream")),
    ]
    answer = send(http, parts, input_type="query")
    text = vector_of(text_row("a cat", "query"))
    expected = [image_vector(IMAGE), text, image_vector(OTHER)]
    assert np.allclose(vectors(answer), expected, atol=1e-6)
    assert [each["index"] for each in answer["data"]] == [0, 1, 2]


def test_a_video_gives_one_vector_and_leaves_no_file(http: httpx2.Client) -> None:
    video = write_video("mp4", frames=6)
    before = set(Path(tempfile.gettempdir()).iterdir())
    parts = [("file", ("clip.mp4", video, "video/mp4")), ("file", ("a.png", IMAGE, "image/png"))]
    answer = send(http, parts, segment_config='{"num_frames": 2}')
    assert len(answer["data"]) == 2
    assert np.allclose(np.linalg.norm(vectors(answer), axis=1), 1, atol=1e-5)
    left = set(Path(tempfile.gettempdir()).iterdir()) - before
    assert not [path for path in left if path.is_file() and path.stat().st_size == len(video)]


def test_the_fields_are_those_of_the_json_body(http: httpx2.Client) -> None:
    one = [("file", ("a.png", IMAGE))]
    answer = send(http, one, encoding_format="base64", model="clip-vit-b-32", dimensions="8")
    assert isinstance(answer["data"][0]["embedding"], str)
    assert answer["model"] == "clip-vit-b-32"
    wrong = send(http, one, 404, model="another")
    assert wrong["error"]["code"] == "model_not_found"
    assert "dimensions=3" in send(http, one, 400, dimensions="3")["error"]["message"]


def test_raw_rows_are_answered_too(http: httpx2.Client) -> None:
    answer = http.post(
        "/v1/embeddings",
        files=[("file", ("a.png", IMAGE)), ("file", ("b.jpg", OTHER))],
        headers={"accept": "application/x-npy"},
    )
    rows = np.load(io.BytesIO(answer.content))
    assert np.allclose(rows, [image_vector(IMAGE), image_vector(OTHER)], atol=1e-6)


@pytest.mark.parametrize(
    ("parts", "fields", "said"),
    [
        ([("model", (None, "clip-vit-b-32"))], {}, "no files and no input"),
        ([("file", ("a", b""))], {}, "empty"),
        ([("file", ("a", IMAGE[:60])), ("file", ("b", OTHER))], {}, "input[0]: "),
        ([("file", ("a", IMAGE))], {"dimensions": "many"}, "dimensions"),
        ([("file", ("a", IMAGE))], {"encoding_format": "hex"}, "encoding_format"),
        ([("file", ("a", IMAGE))], {"segment_config": "{"}, "segment_config"),
        ([("file", ("a", IMAGE))], {"user": "x" * 100_000}, "longer than 65,536 bytes"),
    ],
)
def test_a_wrong_form_is_a_400_that_says_why(
    http: httpx2.Client, parts: Any, fields: dict[str, str], said: str
) -> None:
    error = send(http, parts, 400, **fields)["error"]
    assert error["type"] == "invalid_request_error"
    assert said in error["message"]


def test_a_form_has_no_more_items_than_a_request_may_have(start: Start) -> None:
    with httpx2.Client(base_url=start(max_items=2).url) as http:
        error = send(http, [("file", ("a", IMAGE))] * 3, 400)["error"]
    assert "limit is 2" in error["message"]


def test_an_image_for_a_text_model_is_refused(start: Start) -> None:
    with httpx2.Client(base_url=start(("text",)).url) as http:
        error = send(http, [("file", ("a", IMAGE))], 400)["error"]
    assert "does not embed image input" in error["message"]


WHOLE = b'--b\r\nContent-Disposition: form-data; name="input"\r\n\r\nx\r\n--b--\r\n'


@pytest.mark.parametrize("end", range(len(WHOLE) - 2))
def test_a_form_that_ends_early_is_no_form(end: int) -> None:
    with pytest.raises(EmbeddingError):
        split_form(f"{FORM}; boundary=b", WHOLE[:end], 9)


@given(
    st.lists(st.tuples(st.sampled_from(("file", "input")), st.binary(max_size=200)), max_size=6),
    st.binary(max_size=3),
    st.integers(0, 2**31),
)
@settings(max_examples=200)
def test_any_form_is_split_into_its_parts_or_refused(
    parts: list[tuple[str, bytes]], noise: bytes, place: int
) -> None:
    """Whole forms come back as they were; damaged ones are forms or a refusal, nothing else."""
    mark = "boundary-that-no-part-holds"
    body = b"".join(
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in parts
    )
    body += f"--{mark}--\r\n".encode()
    actual = split_form(f"{FORM}; boundary={mark}", body, 9)
    assert [(part.name_and_file()[0], part.data) for part in actual] == parts
    at = place % len(body)
    damaged = body[:at] + noise + body[at + len(noise) :]
    try:
        for part in split_form(f"{FORM}; boundary={mark}", damaged, 9):
            part.name_and_file()
    except EmbeddingError:
        pass
