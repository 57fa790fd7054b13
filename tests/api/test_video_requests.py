"""Videos over HTTP, with the embedded model: damaged frames, and pixels that are not square."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx2
import numpy as np
import pytest
from PIL import Image

import multimodal_embedding_serving as mmes
from multimodal_embedding_serving.errors import InvalidInput
from tests.conftest import ROOT
from tests.media_files import write_image, write_video
from tests.serving import Running

SAMPLES = ROOT / "src" / "multimodal_embedding_serving" / "builtin" / "samples"
DAMAGED = [4, 5]
"""Frames of `damaged_video`, of ten."""


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def damaged_video() -> bytes:
    data = bytearray(write_video("mp4", 10, codec="mjpeg", pixel_format="yuvj420p"))
    with av.open(io.BytesIO(bytes(data)), "r") as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for number in DAMAGED:
        position = packets[number].pos
        assert position is not None
        data[position : position + packets[number].size] = bytes(packets[number].size)
    return bytes(data)


@pytest.fixture(scope="module")
def http(server: Running) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=60) as client:
        yield client


def ask(http: httpx2.Client, data: bytes, config: Any) -> httpx2.Response:
    payload = {"type": "video_base64", "video_base64": b64(data), "segment_config": config}
    return http.post("/embeddings", json={"input": payload})


@pytest.mark.parametrize("pooling", [{}, {"pooling": "mean"}])
def test_a_damaged_frame_is_skipped_with_both_of_its_names(
    http: httpx2.Client, pooling: dict[str, str]
) -> None:
    answer = ask(http, damaged_video(), {"frame_indexes": [3, 4, 6], **pooling}).json()
    assert [each["index"] for each in answer["frames"]] == [3, 6]
    assert np.shape(answer["embedding"]) == ((384,) if pooling else (2, 384))
    (skipped,) = answer["skipped"]
    assert (skipped["frame_number"], skipped["index"], skipped["timestamp"]) == (4, 4, 0.16)


@pytest.mark.parametrize("pooling", [{}, {"pooling": "mean"}])
def test_a_video_whose_sampled_frames_are_all_damaged_is_a_422_that_lists_them(
    http: httpx2.Client, pooling: dict[str, str]
) -> None:
    response = ask(http, damaged_video(), {"frame_indexes": DAMAGED, **pooling})
    assert response.status_code == 422
    assert "none of the sampled frames (4, 5) could be decoded" in response.json()["detail"]
    assert "segment_config" in response.json()["detail"]


def test_the_same_holds_for_forms_and_in_process(http: httpx2.Client) -> None:
    data, config = damaged_video(), {"frame_indexes": DAMAGED}
    response = http.post(
        "/v1/embeddings",
        data={"segment_config": json.dumps(config)},
        files={"file": ("video.mp4", data)},
    )
    assert response.status_code == 400
    assert "sampled frames (4, 5)" in response.json()["error"]["message"]
    with (
        mmes.Engine.open("Builtin/mini") as engine,
        pytest.raises(InvalidInput, match=r"sampled frames \(4, 5\)"),
    ):
        engine.embed(video=data, segment=config)


def wide_video(aspect: Fraction, rotation: int = 0) -> bytes:
    """Two photos, whose pixels are `aspect` times as wide as high."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as target:
        stream = target.add_stream("libx264", rate=5, options={"crf": "12"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
        stream.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(-rotation)
        for name in ("cat.jpg", "coffee.jpg"):
            photo = Image.open(SAMPLES / name).resize((720, 576))
            frame = av.VideoFrame.from_image(photo)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return out.getvalue()


def scaled_by_ffmpeg(data: bytes, aspect: Fraction, rotation: int) -> list[bytes]:
    """PNG files of the frames at their display size, upright."""
    files = []
    with av.open(io.BytesIO(data), "r") as container:
        for frame in container.decode(video=0):
            width = max(1, round(frame.width * aspect))
            rgb = frame.reformat(format="rgb24")
            scaled = rgb.reformat(width=width, interpolation="BICUBIC")
            image = Image.fromarray(np.rot90(scaled.to_ndarray(), -rotation // 90).copy())
            files.append(write_image("png", image))
    return files


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize("aspect", ["16/15", "64/45", "4/3", "8/9", "10/11", "2"])
def test_frames_are_embedded_as_ffmpeg_scales_them(
    http: httpx2.Client, aspect: str, rotation: int
) -> None:
    ratio = Fraction(aspect)
    data = wide_video(ratio, rotation)
    shown = np.array(ask(http, data, {"num_frames": 0}).json()["embedding"])
    files = [b64(file) for file in scaled_by_ffmpeg(data, ratio, rotation)]
    payload = {"type": "image_base64", "image_base64": files}
    expected = np.array(http.post("/embeddings", json={"input": payload}).json()["embedding"])
    cosines = (shown * expected).sum(axis=1)
    assert cosines.shape == (2,)
    assert (cosines >= 0.999).all(), cosines
    config = {"num_frames": 0, "pixel_aspect": "stored"}
    stored = np.array(ask(http, data, config).json()["embedding"])
    square = ask(http, wide_video(Fraction(1), rotation), {"num_frames": 0}).json()["embedding"]
    assert ((stored * square).sum(axis=1) >= 0.9999).all()
    assert not np.allclose(stored, shown, atol=1e-4)


def with_pixel_aspect(http: httpx2.Client, shape: str, value: Any) -> httpx2.Response:
    """A request with `pixel_aspect` in one of the forms that take it."""
    data, config = wide_video(Fraction(2)), {"num_frames": 1, "pixel_aspect": value}
    if shape == "form":
        return http.post(
            "/v1/embeddings",
            data={"segment_config": json.dumps(config)},
            files={"file": ("video.mp4", data)},
        )
    if shape == "base64":
        payload: dict[str, Any] = {"type": "video_base64", "video_base64": b64(data)}
    elif shape == "url":
        payload = {"type": "video_url", "video_url": "data:video/mp4;base64," + b64(data)}
    else:
        payload = {"type": "video_file", "video_path": "film.mp4"}
    return http.post("/embeddings", json={"input": {**payload, "segment_config": config}})


def first_vector(response: httpx2.Response) -> Any:
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer["data"][0]["embedding"] if "data" in answer else answer["embedding"][0]


@pytest.mark.parametrize("shape", ["base64", "url", "form"])
def test_every_form_of_a_video_takes_the_pixel_aspect(http: httpx2.Client, shape: str) -> None:
    default, display, stored = (
        np.array(first_vector(with_pixel_aspect(http, shape, value)))
        for value in (None, "display", "stored")
    )
    assert np.allclose(default, display, atol=1e-6)
    assert display @ stored < 0.9999


@pytest.mark.parametrize("value", ["Display", "", "square", 1, True, ["display"], {}])
@pytest.mark.parametrize("shape", ["base64", "url", "file", "form"])
def test_another_pixel_aspect_is_rejected_by_name(
    http: httpx2.Client, shape: str, value: Any
) -> None:
    response = with_pixel_aspect(http, shape, value)
    assert response.status_code == (400 if shape == "form" else 422)
    assert "segment_config.pixel_aspect" in response.text
    assert "display" in response.text
    assert "stored" in response.text


def test_a_video_file_and_the_sdk_take_the_pixel_aspect(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(wide_video(Fraction(2)))
    with mmes.Engine.open("Builtin/mini") as engine:
        display, stored = (
            engine.embed(video=path, segment={"num_frames": 1, "pixel_aspect": value})[0]
            for value in ("display", "stored")
        )
        assert display @ stored < 0.9999
        with pytest.raises(InvalidInput, match=r"segment.pixel_aspect"):
            engine.embed(video=path, segment={"pixel_aspect": "square"})
