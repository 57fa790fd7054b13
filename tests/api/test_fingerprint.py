"""Every answer that holds vectors says whose they are: all routes, all forms of answer."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from multimodal_embedding_serving.api.app import create_app
from multimodal_embedding_serving.settings import Settings
from tests.api.fakes import FakeServing, Start
from tests.media_files import write_image, write_video

FINGERPRINT = "fa4e-f32"
"""Of the fake engine."""
HEADER = "x-embedding-fingerprint"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


IMAGE, VIDEO = b64(write_image("png")), b64(write_video(frames=4))
FRAMES = [{"type": "image_base64", "image_base64": IMAGE}]
NATIVE: list[dict[str, Any]] = [
    {"type": "text", "text": "a"},
    {"type": "text", "text": ["a", "b"]},
    {"type": "image_base64", "image_base64": IMAGE},
    {"type": "video_frames", "video_frames": FRAMES},
    {"type": "video_base64", "video_base64": VIDEO},
    {"type": "video_base64", "video_base64": VIDEO, "segment_config": {"pooling": "mean"}},
]
BODIES: Mapping[str, list[dict[str, Any]]] = {
    "/embeddings": [*({"input": each} for each in NATIVE), {"input": "a"}, {"input": ["a", "b"]}],
    "/v1/embeddings": [{"input": "a"}, {"input": ["a", {"image": IMAGE}, {"video": VIDEO}]}],
    "/v2/embed": [
        {"texts": ["a", "b"], "input_type": "search_query"},
        {"images": [f"data:image/png;base64,{IMAGE}"], "input_type": "image"},
    ],
}
"""What these routes are asked for here; any other is asked for the examples of its document."""
Form = tuple[dict[str, Any], dict[str, str]]
FORMS: list[Form] = [
    ({}, {}),
    ({"encoding_format": "float"}, {}),
    ({"encoding_format": "base64"}, {}),
    ({}, {"accept": "application/octet-stream"}),
    ({}, {"accept": "application/x-npy"}),
]
COHERES: list[Form] = [
    ({"embedding_types": [kind]}, {})
    for kind in ("float", "base64", "int8", "uint8", "binary", "ubinary")
]
FORMS_OF: dict[str, list[Form]] = {
    "/v2/embed": COHERES,
    "/classify": [({}, {})],
    "/score": [({}, {})],
}
"""Of the routes that reject the options of the others, or have their own."""
DOCUMENT = create_app(Settings()).openapi()


def examples(path: str) -> list[dict[str, Any]]:
    body = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schema = DOCUMENT["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    return list(schema.get("examples", ()))


POSTS = [
    path
    for path, methods in DOCUMENT["paths"].items()
    if "post" in methods and path != "/predict"  # a form: see the uploads
]
ASKED = [(path, body) for path in POSTS for body in BODIES.get(path) or examples(path)]


def test_no_route_that_takes_inputs_is_left_out() -> None:
    assert set(BODIES) <= set(POSTS)
    assert {path for path, _ in ASKED} == set(POSTS), "give the new route's body an example"


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_every_answer_with_vectors_carries_the_fingerprint(
    http: httpx2.Client, path: str, body: dict[str, Any]
) -> None:
    for options, headers in FORMS_OF.get(path, FORMS):
        answer = http.post(path, json={**body, **options}, headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers[HEADER] == FINGERPRINT, (options, headers)


def test_an_answer_to_an_upload_carries_it_too(http: httpx2.Client) -> None:
    file = ("a.png", write_image("png"), "image/png")
    entries = (None, '{"clip": {"visual": {"modelName": "clip-vit-b-32"}}}')
    forms: dict[str, Any] = {
        "/v1/embeddings": {"file": file},
        "/predict": {"entries": entries, "image": file},
    }
    for path, files in forms.items():
        answer = http.post(path, files=files)
        assert answer.status_code == 200, answer.text
        assert answer.headers[HEADER] == FINGERPRINT


def test_inputs_on_the_servers_own_disk_carry_it_too(start: Start, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(write_video(frames=4))
    frame = '{"frames": [{"frame_number": 1, "timestamp": 0.1, "type": "full_frame"}]'
    (tmp_path / "manifest.json").write_text(frame + ', "video_path": "clip.mp4"}')
    url = start(media_roots=(tmp_path,)).url
    for payload in (
        {"type": "video_file", "video_path": "clip.mp4"},
        {"type": "frames_batch", "frames_manifest_path": "manifest.json"},
    ):
        answer = httpx2.post(f"{url}/embeddings", json={"input": payload})
        assert answer.status_code == 200, answer.text
        assert answer.headers[HEADER] == FINGERPRINT


def test_the_models_pages_name_it(http: httpx2.Client, serving: FakeServing) -> None:
    assert http.get("/model/current").json()["fingerprint"] == FINGERPRINT
    listed = http.get("/v1/models").json()["data"]
    assert [each["fingerprint"] for each in listed] == [FINGERPRINT]
    one = http.get("/v1/models/clip-vit-b-32").json()
    assert one["fingerprint"] == FINGERPRINT


def test_the_certificate_is_shown_where_the_model_has_one(start: Start) -> None:
    parity = {"text": {"minimum": 0.99997, "mean": 0.99999, "bound": 0.9999}}
    url = start(facts={"parity": parity}).url
    assert httpx2.get(f"{url}/model/current").json()["parity"] == parity
    assert httpx2.get(f"{url}/v1/models").json()["data"][0]["parity"] == parity
