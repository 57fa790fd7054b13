"""Media behind URLs: from a web server on the loopback, which the settings allow."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import numpy as np
import pytest

from tests.api.fakes import FakeServing, Start
from tests.api.test_native import image_vector
from tests.media_files import IMAGE_KINDS, photo, write_image, write_oriented, write_video


class Pages(BaseHTTPRequestHandler):
    """Serves what the test put into `files`; everything else is a 404."""

    files: ClassVar[dict[str, bytes]] = {
        "/a.png": write_image("png"),
        "/b.webp": write_image("webp", photo(seed=2)),
        "/cut.jpg": write_image("jpeg")[:-200],
        "/words.png": b"these are only words, and many of them",
        "/v.mp4": write_video(frames=10),
    }

    def do_GET(self) -> None:
        body = self.files.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("content-length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()


@pytest.fixture
def allowing(start: Start) -> FakeServing:
    return start(allowed_hosts=("127.0.0.1",))


def test_images_behind_urls_keep_their_order(allowing: FakeServing, pages: str) -> None:
    given = {"type": "image_url", "image_url": [f"{pages}/b.webp", f"{pages}/a.png"]}
    answer = httpx2.post(f"{allowing.url}/embeddings", json={"input": given}).json()
    expected = [image_vector(Pages.files[name]) for name in ("/b.webp", "/a.png")]
    assert np.allclose(answer["embedding"], expected)


def test_a_video_behind_a_url_is_its_frames(allowing: FakeServing, pages: str) -> None:
    config = {"num_frames": 5}
    given = {"type": "video_url", "video_url": f"{pages}/v.mp4", "segment_config": config}
    remote = httpx2.post(f"{allowing.url}/embeddings", json={"input": given}).json()
    data = base64.b64encode(Pages.files["/v.mp4"]).decode()
    given = {"type": "video_base64", "video_base64": data, "segment_config": config}
    inline = httpx2.post(f"{allowing.url}/embeddings", json={"input": given}).json()
    assert remote["embedding"] == inline["embedding"]
    assert remote["frames"] == inline["frames"]


def test_v1_fetches_images_and_videos(allowing: FakeServing, pages: str) -> None:
    items = [{"image": f"{pages}/a.png"}, {"video": f"{pages}/v.mp4"}]
    answer = httpx2.post(f"{allowing.url}/v1/embeddings", json={"input": items}).json()
    assert np.allclose(answer["data"][0]["embedding"], image_vector(Pages.files["/a.png"]))
    assert np.isclose(np.linalg.norm(answer["data"][1]["embedding"]), 1)


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("gone.png", 424, "status 404"),
        ("cut.jpg", 422, "could not decode"),
        ("words.png", 415, "not a supported image format"),
    ],
)
def test_what_is_wrong_behind_a_url_is_told_with_its_place(
    allowing: FakeServing, pages: str, name: str, status: int, says: str
) -> None:
    urls = [f"{pages}/a.png", f"{pages}/{name}"]
    given = {"type": "image_url", "image_url": urls}
    answer = httpx2.post(f"{allowing.url}/embeddings", json={"input": given})
    assert (answer.status_code, answer.json()["index"]) == (status, 1)
    assert says in answer.json()["detail"]
    items = [{"image": url} for url in urls]
    error = httpx2.post(f"{allowing.url}/v1/embeddings", json={"input": items})
    assert error.status_code == 400
    assert error.json()["error"]["message"].startswith("item 1: ")


def test_every_kind_of_picture_is_the_same_by_base64_url_frame_and_file(
    start: Start, pages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"/{kind}": write_image(kind) for kind in IMAGE_KINDS}
    files |= {f"/turned_{turn}": write_oriented(photo(), turn) for turn in range(1, 9)}
    monkeypatch.setattr(Pages, "files", files)
    inline = [base64.b64encode(data).decode() for data in files.values()]
    for name, data in files.items():
        (tmp_path / name[1:]).write_bytes(data)
    frames = [
        {"frame_number": number, "timestamp": 0, "type": "full_frame", "image_path": name[1:]}
        for number, name in enumerate(files)
    ]
    (tmp_path / "manifest.json").write_text(json.dumps({"frames": frames}))
    singles = [{"type": "image_base64", "image_base64": data} for data in inline]
    ways: list[dict[str, Any]] = [
        {"type": "image_base64", "image_base64": inline},
        {"type": "image_url", "image_url": [pages + name for name in files]},
        {"type": "video_frames", "video_frames": singles},
        {"type": "frames_batch", "frames_manifest_path": "manifest.json"},
    ]
    url = start(allowed_hosts=("127.0.0.1",), media_roots=(tmp_path,)).url
    answers = [httpx2.post(f"{url}/embeddings", json={"input": way}, timeout=60) for way in ways]
    vectors = [answer.json()["embedding"] for answer in answers]
    assert len(vectors[0]) == len(files)
    assert vectors[0] == vectors[1] == vectors[2] == vectors[3]


def test_the_loopback_is_refused_unless_it_is_allowed(start: Start, pages: str) -> None:
    given = {"type": "image_url", "image_url": f"{pages}/a.png"}
    answer = httpx2.post(f"{start().url}/embeddings", json={"input": given})
    assert answer.status_code == 403
