"""The native endpoints, over real sockets and fake graphs."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from multimodal_embedding_serving.catalog import MODELS
from multimodal_embedding_serving.media.image import ImageLimits, decode_rgb
from multimodal_embedding_serving.settings import IMAGE_FORMATS
from multimodal_embedding_serving.types import Vector
from tests.api.fakes import TRANSFORM, Start, text_row
from tests.fakes import vector_of
from tests.media_files import photo, write_image, write_video

LIMITS = ImageLimits(max_bytes=2**25, max_pixels=10**8, formats=tuple(IMAGE_FORMATS))


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image_vector(data: bytes) -> Vector:
    """What the fake graph gives for an encoded image."""
    return vector_of(TRANSFORM(decode_rgb(data, LIMITS, min_side=TRANSFORM.min_side)))


def embed(http: httpx2.Client, **payload: Any) -> Any:
    answer = http.post("/embeddings", json={"input": payload})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_health_and_probes_answer_once_the_model_is_open(http: httpx2.Client) -> None:
    assert http.get("/health").json() == {"status": "healthy"}
    assert http.get("/ready").json() == {"status": "ready"}
    assert http.get("/live").status_code == 200


@pytest.mark.parametrize("path", ["/models", "/model/list"])
def test_the_catalog_lists_every_row_by_family(http: httpx2.Client, path: str) -> None:
    answer = http.get(path).json()
    assert answer["current_model"] == "CLIP/clip-vit-b-32"
    assert answer["total_models"] == len(MODELS)
    assert "clip-vit-b-32" in answer["available_models"]["CLIP"]


def test_the_current_model_is_described(http: httpx2.Client) -> None:
    answer = http.get("/model/current")
    assert answer.json() == {
        "model": "CLIP/clip-vit-b-32",
        "device": "CPU",
        "use_openvino": True,
        "backend": "openvino",
        "precision": "f16",
        "inference_precision": "f32",
        "dynamic_quantization_group_size": 0,
        "notices": [],
        "dimension": 8,
        "fingerprint": "fa4e-f32",
        "text_length": 64,
        "logit_scale": 100.0,
    }
    assert answer.headers["x-embedding-fingerprint"] == "fa4e-f32"


def test_capabilities_name_text_and_image_and_video_follows(http: httpx2.Client) -> None:
    assert http.get("/model/capabilities").json() == {
        "model": "CLIP/clip-vit-b-32",
        "modalities": ["image", "text"],
        "supports_text": True,
        "supports_image": True,
        "supports_video": True,
    }


def test_a_text_model_supports_neither_image_nor_video(start: Start) -> None:
    answer = httpx2.get(f"{start(('text',)).url}/model/capabilities").json()
    assert answer["modalities"] == ["text"]
    assert (answer["supports_image"], answer["supports_video"]) == (False, False)


def test_a_string_is_a_query_and_gives_one_vector(http: httpx2.Client) -> None:
    answer = embed(http, type="text", text="a cat")
    assert np.allclose(answer["embedding"], vector_of(text_row("a cat", "query")))
    assert answer["usage"] == {"prompt_tokens": 6, "total_tokens": 6, "truncated": False}


@pytest.mark.parametrize("texts", [["a cat"], ["a cat", "a dog", "a cat"]])
def test_a_list_holds_documents_and_gives_a_list(http: httpx2.Client, texts: list[str]) -> None:
    answer = embed(http, type="text", text=texts)
    expected = [vector_of(text_row(text, "document")) for text in texts]
    assert np.allclose(answer["embedding"], expected)


def test_a_long_text_is_cut_and_the_usage_says_so(http: httpx2.Client) -> None:
    assert embed(http, type="text", text="x" * 1000)["usage"]["truncated"] is True


def test_vectors_survive_json_to_the_last_bit(http: httpx2.Client) -> None:
    answer = embed(http, type="text", text="exact")
    actual = np.array(answer["embedding"], np.float32)
    assert (actual == vector_of(text_row("exact", "query"))).all()


def test_base64_vectors_are_little_endian_floats(http: httpx2.Client) -> None:
    payload = {"input": {"type": "text", "text": ["a", "b"]}, "encoding_format": "base64"}
    rows = http.post("/embeddings", json=payload).json()["embedding"]
    actual = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
    assert (actual[1] == vector_of(text_row("b", "document"))).all()


def test_an_unknown_encoding_counts_as_float(http: httpx2.Client) -> None:
    payload = {"input": {"type": "text", "text": "a"}, "encoding_format": "ubinary"}
    assert len(http.post("/embeddings", json=payload).json()["embedding"]) == 8


@pytest.mark.parametrize("kind", ["jpeg", "png_palette", "webp", "tiff_16"])
@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_an_image_in_base64(http: httpx2.Client, kind: str, prefix: str) -> None:
    data = write_image(kind)
    answer = embed(http, type="image_base64", image_base64=prefix + b64(data))
    assert np.allclose(answer["embedding"], image_vector(data))
    assert answer["usage"]["prompt_tokens"] == TRANSFORM.patches


def test_a_list_of_images_keeps_its_order(http: httpx2.Client) -> None:
    files = [write_image("png", photo(seed=seed)) for seed in range(6)]
    answer = embed(http, type="image_base64", image_base64=[b64(each) for each in files])
    assert np.allclose(answer["embedding"], [image_vector(each) for each in files])


def test_frames_sent_one_by_one_give_one_vector_each(http: httpx2.Client) -> None:
    files = [write_image("png", photo(seed=seed)) for seed in range(3)]
    frames = [{"type": "image_base64", "image_base64": b64(each)} for each in files]
    answer = embed(http, type="video_frames", video_frames=frames)
    assert np.allclose(answer["embedding"], [image_vector(each) for each in files])


def test_a_video_gives_a_vector_for_each_frame_and_says_which(http: httpx2.Client) -> None:
    config = {"num_frames": 5, "unheard_of": 1}
    data = b64(write_video(frames=50, rate=25))
    answer = embed(http, type="video_base64", video_base64=data, segment_config=config)
    assert [frame["index"] for frame in answer["frames"]] == [0, 10, 20, 30, 40]
    assert [frame["timestamp"] for frame in answer["frames"]] == [0, 0.4, 0.8, 1.2, 1.6]
    assert np.shape(answer["embedding"]) == (5, 8)


def test_fps_is_another_name_for_extraction_fps(http: httpx2.Client) -> None:
    data = b64(write_video(frames=50, rate=25))
    answer = embed(http, type="video_base64", video_base64=data, segment_config={"fps": 5})
    assert [frame["index"] for frame in answer["frames"]] == list(range(0, 50, 5))


def test_a_pooled_video_is_one_unit_vector(http: httpx2.Client) -> None:
    data = b64(write_video(frames=8))
    apart = embed(http, type="video_base64", video_base64=data, segment_config={"num_frames": 4})
    config = {"num_frames": 4, "pooling": "mean"}
    pooled = embed(http, type="video_base64", video_base64=data, segment_config=config)
    mean = np.mean(apart["embedding"], axis=0)
    assert np.allclose(pooled["embedding"], mean / np.linalg.norm(mean), atol=1e-6)
    assert len(pooled["frames"]) == 4


def test_a_video_file_is_read_below_the_media_roots(start: Start, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "one.mp4").write_bytes(write_video(frames=4))
    url = start(media_roots=(tmp_path,)).url
    for path in ("clips/one.mp4", str(tmp_path / "clips" / "one.mp4")):
        payload = {"type": "video_file", "video_path": path, "segment_config": {"num_frames": 0}}
        answer = httpx2.post(f"{url}/embeddings", json={"input": payload})
        assert len(answer.json()["embedding"]) == 4


def test_an_image_file_is_read_below_the_media_roots(start: Start, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(write_image("png"))
    url = start(media_roots=(tmp_path,)).url
    answers = [
        httpx2.post(
            f"{url}/embeddings", json={"input": {"type": "image_file", "image_path": path}}
        ).json()["embedding"]
        for path in ("one.png", [str(tmp_path / "one.png")])
    ]
    assert answers == [answers[0], [answers[0]]]


def test_a_manifest_gives_its_frames_in_its_order(start: Start, tmp_path: Path) -> None:
    data = write_image("png")
    (tmp_path / "crop.png").write_bytes(data)
    (tmp_path / "clip.mp4").write_bytes(write_video(frames=10))
    frames: list[dict[str, Any]] = [
        {"frame_number": 7, "timestamp": 0.28, "type": "full_frame", "image_path": None},
        {"frame_number": 3, "timestamp": 0.12, "type": "detected_crop", "image_path": "crop.png"},
        {"frame_number": 2, "timestamp": 0.08, "type": "full_frame", "image_path": None},
        {"frame_number": 4, "timestamp": 0.16, "type": "full_frame", "image_path": "gone.png"},
        {"frame_number": 99, "timestamp": 4, "type": "full_frame", "image_path": None},
        {"frame_number": 7, "timestamp": 0.28, "type": "detected_crop", "crop_bbox": [0, 0, 9, 9]},
    ]
    manifest = {"frames": frames, "video_path": "clip.mp4", "video_metadata": {"any": "thing"}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    payload = {"type": "frames_batch", "frames_manifest_path": "manifest.json"}
    url = start(media_roots=(tmp_path,)).url
    answer = httpx2.post(f"{url}/embeddings", json={"input": payload}).json()
    assert [frame["index"] for frame in answer["frames"]] == [7, 3, 2, 7]
    assert [each["frame_number"] for each in answer["skipped"]] == [4, 99]
    assert np.allclose(answer["embedding"][1], image_vector(data))
    assert not np.allclose(answer["embedding"][0], answer["embedding"][3])


@pytest.mark.parametrize("name", ["clip-vit-b-32", "clip/CLIP-ViT-B-32", "", None])
def test_any_spelling_of_the_model_is_accepted(http: httpx2.Client, name: str | None) -> None:
    payload = {"model": name, "input": {"type": "text", "text": "a"}}
    assert http.post("/embeddings", json=payload).status_code == 200


def test_octets_are_raw_rows_and_npy_is_a_file(http: httpx2.Client) -> None:
    payload = {"input": {"type": "text", "text": ["a", "b"]}}
    octets = http.post("/embeddings", json=payload, headers={"accept": "application/octet-stream"})
    shape = [int(side) for side in octets.headers["x-embedding-shape"].split(",")]
    rows = np.frombuffer(octets.content, "<f4").reshape(shape)
    assert (rows[0] == vector_of(text_row("a", "document"))).all()
    npy = http.post("/embeddings", json=payload, headers={"accept": "application/x-npy"})
    assert npy.content.startswith(b"\x93NUMPY")
    assert octets.headers["x-embedding-fingerprint"] == "fa4e-f32"
