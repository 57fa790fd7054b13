"""What MME's documentation tells its users to type, with curl itself.

The paths, fields, values and flags are those of its "Sample CURL Commands" and "API Reference";
only the addresses of the media are this machine's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.api.fakes import FakeServing, Start, text_row
from tests.api.test_native import b64, image_vector
from tests.api.test_remote import Pages
from tests.api.test_remote import pages as pages  # a fixture of this file too
from tests.fakes import vector_of
from tests.media_files import write_video

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")

MODEL = "CLIP/clip-vit-b-32"
IMAGE = Pages.files["/a.png"]
VIDEO = write_video(frames=30)
WHOLE = {"startOffsetSec": 0, "clip_duration": -1, "num_frames": 64}


@dataclass(frozen=True)
class Documented:
    """A server, and curl as MME's users call it."""

    url: str

    def curl(self, *arguments: str, path: str) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        flags = ("--silent", "--noproxy", "*", "--write-out", "\\n%{http_code}")
        command = ["curl", *flags, "--location", f"{self.url}{path}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(body)

    def ask(self, path: str) -> Any:
        status, answer = self.curl("--request", "GET", path=path)
        assert status == 200, answer
        return answer

    def post(self, source: dict[str, Any], model: str = MODEL) -> tuple[int, Any]:
        body = json.dumps({"input": source, "model": model, "encoding_format": "float"}, indent=2)
        header = ("--header", "Content-Type: application/json")
        return self.curl(*header, "--data", body, path="/embeddings")

    def embed(self, **source: Any) -> Any:
        status, answer = self.post(source)
        assert status == 200, answer
        return answer["embedding"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What /tmp/videoQnA is to MME."""
    root = tmp_path_factory.mktemp("videoQnA")
    (root / "sample.mp4").write_bytes(VIDEO)
    (root / "crop.png").write_bytes(IMAGE)
    frames = [
        {"frame_number": 4, "timestamp": 0.16, "image_path": None, "type": "full_frame"},
        {
            "frame_number": 9,
            "timestamp": 0.36,
            "image_path": str(root / "crop.png"),
            "type": "detected_crop",
        },
    ]
    manifest = {"frames": frames, "video_path": str(root / "sample.mp4")}
    (root / "frames.json").write_text(json.dumps(manifest))
    return root


@pytest.fixture(scope="module")
def documented(folder: Path) -> Iterator[Documented]:
    shared = FakeServing(allowed_hosts=("127.0.0.1",), media_roots=(folder,))
    yield Documented(shared.url)
    shared.stop()


def test_a_text_gives_a_flat_vector_and_several_a_list(documented: Documented) -> None:
    one = documented.embed(type="text", text="Sample input text1")
    assert np.allclose(one, vector_of(text_row("Sample input text1", "query")))
    texts = ["Sample input text1", "Sample input text2"]
    several = documented.embed(type="text", text=texts)
    assert np.allclose(several, [vector_of(text_row(text, "document")) for text in texts])


def test_an_image_by_url_and_in_base64_is_the_same_flat_vector(
    documented: Documented, pages: str
) -> None:
    by_url = documented.embed(type="image_url", image_url=f"{pages}/a.png")
    assert np.allclose(by_url, image_vector(IMAGE))
    assert documented.embed(type="image_base64", image_base64=b64(IMAGE)) == by_url


def test_frames_by_url_and_in_base64_give_a_vector_each(documented: Documented, pages: str) -> None:
    frames = [
        {"type": "image_url", "image_url": f"{pages}/b.webp"},
        {"type": "image_base64", "image_base64": b64(IMAGE)},
    ]
    rows = documented.embed(type="video_frames", video_frames=frames)
    assert np.allclose(rows, [image_vector(Pages.files["/b.webp"]), image_vector(IMAGE)])


def test_frame_indexes_go_before_the_number_of_frames(documented: Documented, pages: str) -> None:
    segment = {**WHOLE, "frame_indexes": [1, 5, 8]}
    source = {"type": "video_url", "video_url": f"{pages}/v.mp4", "segment_config": segment}
    status, answer = documented.post(source)
    assert status == 200
    assert np.shape(answer["embedding"]) == (3, 8)
    assert [frame["index"] for frame in answer["frames"]] == [1, 5, 8]


def test_a_video_in_base64_and_by_its_name_give_the_same_frames(documented: Documented) -> None:
    sent = documented.embed(type="video_base64", segment_config=WHOLE, video_base64=b64(VIDEO))
    named = documented.embed(type="video_file", video_path="sample.mp4", segment_config=WHOLE)
    assert np.shape(sent) == (30, 8)
    assert named == sent


def test_frames_are_extracted_at_a_rate(documented: Documented) -> None:
    segment = {"startOffsetSec": 0, "clip_duration": 1, "extraction_fps": 5}
    rows = documented.embed(type="video_file", video_path="sample.mp4", segment_config=segment)
    assert np.shape(rows) == (5, 8)


def test_a_manifest_by_its_absolute_path_gives_a_vector_for_each_frame(
    documented: Documented, folder: Path
) -> None:
    rows = documented.embed(type="frames_batch", frames_manifest_path=str(folder / "frames.json"))
    assert np.shape(rows) == (2, 8)
    assert np.allclose(rows[1], image_vector(IMAGE))


def test_the_gets_hold_every_field_that_is_documented(documented: Documented) -> None:
    assert documented.ask("/health") == {"status": "healthy"}
    listed = documented.ask("/models")
    assert listed["current_model"] == MODEL
    assert listed["total_models"] == sum(map(len, listed["available_models"].values()))
    assert "blip2_transformers" in listed["available_models"]["Blip2"]
    current = documented.ask("/model/current")
    assert (current["model"], current["device"]) == (MODEL, "CPU")
    assert current["use_openvino"] is True
    abilities = documented.ask("/model/capabilities")
    assert sorted(abilities["modalities"]) == ["image", "text"]
    assert abilities["model"] == MODEL


def test_refusals_have_the_status_and_the_detail_that_is_documented(
    documented: Documented, start: Start
) -> None:
    text = {"type": "text", "text": "a"}
    status, answer = documented.post(text, model="CLIP/clip-vit-h-14")
    assert status == 400
    assert answer["detail"].startswith(
        "Model mismatch: requested model 'CLIP/clip-vit-h-14' does not match the currently loaded "
        f"model '{MODEL}'."
    )
    image = {"type": "image_base64", "image_base64": b64(IMAGE)}
    assert Documented(start(("text",)).url).post(image)[0] == 400
    gone = {"type": "video_file", "video_path": "gone.mp4", "segment_config": WHOLE}
    assert documented.post(gone)[0] == 404
    assert documented.post({"type": "smell", "smell": "a"})[0] == 422
