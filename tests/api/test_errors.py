"""Every kind of error response: its status, its format, its item, and no internals."""

from __future__ import annotations

import base64
import json
import re
import socket
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from multimodal_embedding_serving.api.dialects import DIALECTS, Dialect, find_dialect
from multimodal_embedding_serving.api.errors import MethodNotAllowed
from multimodal_embedding_serving.errors import EmbeddingError, InvalidInput, NotFound
from tests.api.fakes import FakeServing, Start
from tests.fakes import POISON
from tests.media_files import write_image

IMAGE = base64.b64encode(write_image("png")).decode()
CUT = base64.b64encode(write_image("jpeg")[:-200]).decode()
NOT_AN_IMAGE = base64.b64encode(b"some text that is not an image").decode()
INTERNALS = re.compile(r"0x[0-9a-f]{6,}|Traceback|File \"|/usr/|site-packages")

BAD_INPUTS: list[tuple[dict[str, Any], int, str, int | None]] = [
    ({"type": "text"}, 422, "input.text", None),
    ({"type": "text", "text": []}, 422, "input.text", None),
    ({"type": "text", "text": ["a", 5]}, 422, "input.text[1]", 1),
    ({"type": "text", "text": {"a": 1}}, 422, "input.text", None),
    ({"type": "poem", "text": "a"}, 422, "input", None),
    ({"text": "a"}, 422, "input", None),
    ({"type": "image_base64", "image_base64": "%%%"}, 422, "base64", None),
    ({"type": "image_base64", "image_base64": ""}, 422, "empty", None),
    ({"type": "image_base64", "image_base64": [IMAGE, CUT]}, 422, "could not decode", 1),
    ({"type": "image_base64", "image_base64": [IMAGE, IMAGE, NOT_AN_IMAGE]}, 415, "image", 2),
    ({"type": "image_url", "image_url": "file:///etc/passwd"}, 403, "", None),
    ({"type": "image_url", "image_url": ["http://127.0.0.1:9/a.png"]}, 403, "", 0),
    ({"type": "video_frames", "video_frames": []}, 422, "input.video_frames", None),
    (
        {"type": "video_frames", "video_frames": [{"type": "image_base64"}]},
        422,
        "input.video_frames[0].image_base64",
        0,
    ),
    ({"type": "video_base64", "video_base64": NOT_AN_IMAGE}, 415, "video", None),
    ({"type": "image_file", "image_path": "/etc/passwd"}, 403, "", None),
    ({"type": "image_file", "image_path": ["no_such_photo.jpg"]}, 404, "", 0),
    ({"type": "image_file", "image_path": []}, 422, "input.image_path", None),
    ({"type": "video_file", "video_path": "/etc/passwd"}, 403, "", None),
    ({"type": "video_file", "video_path": "no_such_clip.mp4"}, 404, "", None),
    ({"type": "frames_batch", "frames_manifest_path": "../../etc/passwd"}, 403, "", None),
]
BAD_SEGMENTS: list[tuple[dict[str, Any], str]] = [
    ({"num_frames": -1}, "num_frames"),
    ({"num_frames": "many"}, "num_frames"),
    ({"fps": 0}, "fps"),
    ({"startOffsetSec": -1}, "startOffsetSec"),
    ({"clip_duration": -2}, "clip_duration"),
    ({"frame_indexes": [1, -1]}, "frame_indexes[1]"),
    ({"pooling": "max"}, "pooling"),
]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InvalidInput("too long"), "too long"),
        (InvalidInput("too long", param="input"), "too long"),
        (InvalidInput("too long", index=1), "input[1]: too long"),
        (InvalidInput("too long", index=1, param="input"), "input[1]: too long"),
        (InvalidInput("too long", index=1, param="texts"), "texts[1]: too long"),
        (InvalidInput("too long", index=1, param="truncate"), "input[1]: too long"),
        (InvalidInput("input.text[1]: bad", index=1, param="input.text.1"), "input.text[1]: bad"),
    ],
)
def test_an_error_names_its_item_once(error: InvalidInput, text: str) -> None:
    assert str(error) == text


def refused(answer: httpx2.Response, status: int) -> Any:
    """The body of a refusal, checked for internals."""
    assert answer.status_code == status, answer.text
    assert not INTERNALS.search(answer.text), answer.text
    return answer.json()


@pytest.mark.parametrize(("payload", "status", "says", "index"), BAD_INPUTS)
def test_a_bad_input_gets_its_status_and_names_its_item(
    http: httpx2.Client, payload: dict[str, Any], status: int, says: str, index: int | None
) -> None:
    body = refused(http.post("/embeddings", json={"input": payload}), status)
    assert says in body["detail"]
    assert body.get("index") == index
    assert body["code"]


@pytest.mark.parametrize(("config", "field"), BAD_SEGMENTS)
def test_a_bad_segment_config_names_its_field(
    http: httpx2.Client, config: dict[str, Any], field: str
) -> None:
    payload = {"type": "video_base64", "video_base64": "AAAA", "segment_config": config}
    body = refused(http.post("/embeddings", json={"input": payload}), 422)
    assert f"input.segment_config.{field}" in body["detail"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"input": NaN}', b"[" * 100_000,
     b'{"input": {"type": "text", "text": 1e999}}'],
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_malformed(http: httpx2.Client, body: bytes) -> None:
    refused(http.post("/embeddings", content=body), 422)
    error = refused(http.post("/v1/embeddings", content=body), 400)["error"]
    assert error["type"] == "invalid_request_error"


def test_lone_surrogates_and_control_bytes_never_fail(http: httpx2.Client) -> None:
    body = (
        rb'{"input": {"type": "text", "text": ["\ud800 \u0000", "\\ud800", "\ud83d\ude00 \udc00"]}}'
    )
    assert http.post("/embeddings", content=body).status_code == 200
    assert http.post("/v1/embeddings", content=b'{"input": "\\udfff"}').status_code == 200


def test_another_model_is_a_mismatch(http: httpx2.Client) -> None:
    payload = {"model": "SigLIP/none", "input": {"type": "text", "text": "a"}}
    body = refused(http.post("/embeddings", json=payload), 400)
    assert body["detail"].startswith(
        "Model mismatch: requested model 'SigLIP/none' does not match the currently loaded model "
        "'CLIP/clip-vit-b-32'."
    )
    assert body["code"] == "model_mismatch"


def test_an_image_on_a_text_model_is_a_400_that_says_so(start: Start) -> None:
    url = start(("text",)).url
    payload = {"type": "image_base64", "image_base64": IMAGE}
    body = refused(httpx2.post(f"{url}/embeddings", json={"input": payload}), 400)
    assert "does not embed image input" in body["detail"]
    answer = httpx2.post(f"{url}/v1/embeddings", json={"input": ["a", {"image": IMAGE}]})
    assert refused(answer, 400)["error"]["code"] == "modality_not_supported"


def test_no_route_and_a_wrong_method_answer_in_the_dialect_of_their_path(
    http: httpx2.Client,
) -> None:
    assert refused(http.get("/nowhere"), 404)["code"] == "not_found"
    assert refused(http.get("/v1/nowhere"), 404)["error"]["type"] == "invalid_request_error"
    assert refused(http.get("/embeddings"), 405)["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "dialect", DIALECTS, ids=lambda each: each.application or each.prefix or "native"
)
def test_each_dialect_reports_an_error_in_its_own_shape(
    http: httpx2.Client, dialect: Dialect
) -> None:
    for path in dialect.paths or (f"{dialect.prefix}/nowhere",):
        answer = http.put(path)
        error: EmbeddingError = NotFound(f"PUT {path}: no such route; see /docs for all routes")
        if dialect.paths:
            methods = answer.headers["allow"]
            error = MethodNotAllowed(f"PUT {path}: this route accepts {methods} only")
        reply = dialect.error(error)
        assert (answer.status_code, answer.json()) == (reply.status, reply.body)
        assert find_dialect(path) is dialect


def test_too_many_items_and_a_long_text_are_too_large(start: Start) -> None:
    url = start(max_items=4, max_text_chars=10).url
    many = {"input": {"type": "text", "text": ["a"] * 5}}
    refused(httpx2.post(f"{url}/embeddings", json=many), 413)
    long = {"input": {"type": "text", "text": ["short", "x" * 11]}}
    assert refused(httpx2.post(f"{url}/embeddings", json=long), 413)["index"] == 1
    error = refused(httpx2.post(f"{url}/v1/embeddings", json={"input": ["a"] * 5}), 400)["error"]
    assert error["code"] == "too_large"


def test_an_image_above_its_limits_is_too_large(start: Start) -> None:
    url = start(max_image_mpix=1).url
    payload = {"input": {"type": "image_base64", "image_base64": [IMAGE, bomb()]}}
    assert refused(httpx2.post(f"{url}/embeddings", json=payload), 413)["index"] == 1


def bomb() -> str:
    """A small PNG whose header announces 10,000 x 10,000 pixels."""
    data = bytearray(write_image("png"))
    data[16:24] = (10_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return base64.b64encode(bytes(data)).decode()


def raw(serving: FakeServing, head: str, body: bytes) -> bytes:
    """The status line that a hand-written request gets."""
    with socket.create_connection(("127.0.0.1", serving.running.port), timeout=20) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode())
        with suppress(OSError):  # refused before the end: what the answer says is what counts
            connection.sendall(body)
        return connection.recv(65536).split(b"\r\n")[0]


def test_a_declared_body_above_the_limit_is_refused_before_it_is_sent(start: Start) -> None:
    head = "POST /embeddings HTTP/1.1\nhost: localhost\ncontent-length: 2000000000\n\n"
    assert raw(start(max_body_mb=1), head, b"") == b"HTTP/1.1 413 Request Entity Too Large"


def test_a_chunked_body_above_the_limit_is_refused_on_the_way(start: Start) -> None:
    head = "POST /v1/embeddings HTTP/1.1\nhost: localhost\ntransfer-encoding: chunked\n\n"
    chunk = b"40000\r\n" + b"x" * 0x40000 + b"\r\n"
    status = raw(start(max_body_mb=1), head, chunk * 5)
    assert status.startswith(b"HTTP/1.1 400")


def test_a_body_that_does_not_arrive_in_time_is_late(start: Start) -> None:
    head = "POST /embeddings HTTP/1.1\nhost: localhost\ncontent-length: 100\n\n"
    status = raw(start(request_timeout=0.05), head, b'{"input"')
    assert status.startswith(b"HTTP/1.1 408")


def test_a_request_past_its_deadline_is_a_504_that_is_not_to_be_retried(start: Start) -> None:
    serving = start(request_timeout=2)  # the body arrives within it on a busy machine, too
    serving.graphs["text"].hold()
    payload = {"input": {"type": "text", "text": "a"}}
    refused(httpx2.post(f"{serving.url}/embeddings", json=payload), 504)
    cohere = {"model": "clip-vit-b-32", "texts": ["c"], "input_type": "search_document"}
    late = httpx2.post(f"{serving.url}/v2/embed", json={**cohere, "embedding_types": ["float"]})
    assert late.status_code == 504
    answer = httpx2.post(f"{serving.url}/v1/embeddings", json={"input": "b"})
    assert refused(answer, 504)["error"]["code"] == "deadline_exceeded"
    assert answer.headers["x-should-retry"] == "false"
    for each in (late, answer):
        assert "not completed within 2 s (EMBEDDING_REQUEST_TIMEOUT_SEC)" in each.text
    serving.graphs["text"].release()
    assert httpx2.post(f"{serving.url}/embeddings", json=payload).status_code == 200


def test_a_graph_that_fails_is_a_500_that_names_the_item_only(start: Start) -> None:
    serving = start()
    poison = base64.b64encode(write_image("png", Image.new("RGB", (9, 9), (POISON, 0, 0)))).decode()
    payload = {"type": "image_base64", "image_base64": [IMAGE, poison, IMAGE]}
    body = refused(httpx2.post(f"{serving.url}/embeddings", json={"input": payload}), 500)
    assert (body["code"], body["index"]) == ("graph_failed", 1)
    error = httpx2.post(f"{serving.url}/v1/embeddings", json={"input": [{"image": poison}]})
    assert error.headers["x-should-retry"] == "false"
    assert httpx2.get(f"{serving.url}/health").status_code == 200


def test_the_manifest_says_what_is_wrong_with_it(start: Start, tmp_path: Path) -> None:
    url = start(media_roots=(tmp_path,)).url
    path = tmp_path / "m.json"
    payload = {"input": {"type": "frames_batch", "frames_manifest_path": "m.json"}}
    frame = {"frame_number": 1, "timestamp": 0.1, "type": "full_frame"}
    for manifest, status, says in (
        ([], 422, "should be an object"),
        ({"frames": []}, 422, "frames"),
        ({"frames": [{**frame, "detection_confidence": 2, "image_path": "a"}]}, 422, "frames[0]"),
        ({"frames": [frame]}, 422, "no image_path"),
        ({"frames": [{**frame, "image_path": "/etc/passwd"}]}, 403, ""),
        ({"frames": [{**frame, "image_path": "gone.png"}]}, 404, ""),
    ):
        path.write_text(json.dumps(manifest))
        assert says in refused(httpx2.post(f"{url}/embeddings", json=payload), status)["detail"]


@pytest.mark.parametrize("path", ["/embeddings", "/v1/embeddings"])
def test_an_unexpected_error_is_a_500_with_an_id_and_no_internals(
    start: Start, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = start()
    assert serving.running.service.engine is not None

    async def explode(*_: object, **__: object) -> None:
        raise ValueError("a secret at 0xdeadbeef")

    monkeypatch.setattr(serving.running.service.engine, "embed_inputs", explode)
    payload = {"input": "a" if path.startswith("/v1") else {"type": "text", "text": "a"}}
    headers = {"x-request-id": "my-request"}
    answer = httpx2.post(f"{serving.url}{path}", json=payload, headers=headers)
    refused(answer, 500)
    assert "my-request" in answer.text
    assert "secret" not in answer.text
