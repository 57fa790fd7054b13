"""EMBEDDING_JPEG_DECODE: at full size or scaled down while decoding, from every source of JPEGs."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.conversion.build import build_bundle
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import SettingsError
from multimodal_embedding_serving.media.image import JpegDecode, choose_jpeg_decode
from multimodal_embedding_serving.settings import PRECISIONS, Settings
from tests.api.fakes import TRANSFORM, FakeServing
from tests.fakes import vector_of
from tests.media_files import write_image
from tests.small_model import SIDE, small_conversion, small_plans

STRIPES = Image.fromarray(np.tile((np.arange(256) // 4.5 % 2 * 255).astype(np.uint8), (256, 1)))
"""Lines near the 8 pixels that libjpeg averages: they leave another pattern than resizing does."""
JPEG = write_image("jpeg", STRIPES.convert("RGB"), quality=95)
DECODES: tuple[JpegDecode, ...] = ("exact", "fast")


def oracle(decode: JpegDecode, side: int, data: bytes = JPEG) -> NDArray[np.uint8]:
    """Pillow's own decoding, in full or drafted to twice the side, and its own resizing."""
    image = Image.open(io.BytesIO(data))
    if decode == "fast":
        image.draft(None, (2 * side, 2 * side))
    return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("side", [SIDE, TRANSFORM.size])
def test_the_oracles_differ(side: int) -> None:
    assert np.abs(oracle("exact", side).astype(int) - oracle("fast", side)).max() >= 8


# ── the setting ──


@pytest.mark.parametrize("precision", PRECISIONS)
def test_auto_is_exact_only_where_f32_is_set_by_name(precision: str) -> None:
    settings = Settings.from_env({"EMBEDDING_PRECISION": precision})
    assert choose_jpeg_decode(settings) == ("exact" if precision == "f32" else "fast")


@pytest.mark.parametrize("decode", DECODES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_setting_by_hand_holds_for_every_precision(precision: str, decode: JpegDecode) -> None:
    environ = {"EMBEDDING_PRECISION": precision, "EMBEDDING_JPEG_DECODE": decode.upper()}
    assert choose_jpeg_decode(Settings.from_env(environ)) == decode


def test_another_value_is_rejected() -> None:
    with pytest.raises(SettingsError, match=r"EMBEDDING_JPEG_DECODE.*auto, exact, fast"):
        Settings.from_env({"EMBEDDING_JPEG_DECODE": "slow"})


# ── in process, with a real graph ──


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return build_bundle(small_conversion(), tmp_path_factory.mktemp("models") / "small")


def open_engine(bundle: Bundle, **settings: Any) -> Engine:
    return Engine.open(
        settings=Settings.from_env({}, model=str(bundle.path), model_cache=False, **settings)
    )


@pytest.mark.parametrize("decode", DECODES)
def test_in_process_sources_obey_the_setting(
    bundle: Bundle, decode: JpegDecode, tmp_path: Path
) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(JPEG)
    uri = f"data:image/jpeg;base64,{base64.b64encode(JPEG).decode()}"
    with open_engine(bundle, jpeg_decode=decode) as engine:
        # An array of the model's own size is not resized: what Pillow made of the JPEG.
        expected, other = engine.embed(images=[oracle(each, SIDE) for each in DECODES])
        if decode == "fast":
            expected, other = other, expected
        for vector in engine.embed(images=[JPEG, file, str(file), uri]):
            np.testing.assert_allclose(vector, expected, atol=1e-6)
            assert np.abs(vector - other).max() > 1e-3


@pytest.mark.parametrize("decode", DECODES)
def test_other_formats_and_small_jpegs_do_not_depend_on_it(
    bundle: Bundle, decode: JpegDecode
) -> None:
    small = write_image("jpeg", STRIPES.convert("RGB").resize((4 * SIDE - 1, 4 * SIDE - 1)))
    png = write_image("png", STRIPES.convert("RGB"))
    with open_engine(bundle, jpeg_decode=decode) as engine:
        for data in (small, png):
            given, expected = engine.embed(images=[data, oracle("exact", SIDE, data)])
            np.testing.assert_allclose(given, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "decode", "suffix"),
    [
        ({"precision": "f32"}, "exact", "-f32-exactjpeg"),
        ({"precision": "f32", "jpeg_decode": "fast"}, "fast", "-f32"),
        ({"jpeg_decode": "exact"}, "exact", "-exactjpeg"),
        ({}, "fast", ""),
    ],
)
def test_the_fingerprint_names_exact_decoding_last(
    bundle: Bundle, settings: dict[str, str], decode: JpegDecode, suffix: str
) -> None:
    with open_engine(bundle, **settings) as engine:
        assert engine.info.jpeg_decode == decode
        assert engine.info.fingerprint.endswith(suffix)
        assert ("exactjpeg" in engine.info.fingerprint) == (decode == "exact")
        assert engine.info.fingerprint.startswith(f"{bundle.manifest.fingerprint}-")


def test_a_model_without_an_image_tower_does_not_depend_on_it(tmp_path: Path) -> None:
    text_only = build_bundle(small_conversion(plans=small_plans()[1:]), tmp_path / "text")
    with open_engine(text_only, precision="f32", jpeg_decode="exact") as engine:
        assert engine.info.jpeg_decode is None
        assert engine.info.fingerprint == f"{text_only.manifest.fingerprint}-f32"


# ── over HTTP: a URL, base64, an upload, a manifest's images ──


class Page(BaseHTTPRequestHandler):
    """Serves the JPEG."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(JPEG)))
        self.end_headers()
        self.wfile.write(JPEG)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{web.server_port}/a.jpg"
        web.shutdown()


@pytest.fixture(scope="module", params=[*DECODES, "auto", "f32"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[FakeServing, JpegDecode]]:
    """A server, and how it decodes: by the setting, or by the precision."""
    root = tmp_path_factory.mktemp("media")
    (root / "a.jpg").write_bytes(JPEG)
    frames = [{"frame_number": 0, "timestamp": 0.0, "image_path": "a.jpg"}]
    (root / "manifest.json").write_text(json.dumps({"frames": frames}))
    decode: JpegDecode = "exact" if request.param in ("exact", "f32") else "fast"
    setting = "precision" if request.param == "f32" else "jpeg_decode"
    running = FakeServing(
        allowed_hosts=("127.0.0.1",),
        media_roots=(root,),
        facts={"jpeg_decode": decode},
        **{setting: request.param},
    )
    yield running, decode
    running.stop()


def native(url: str, **source: Any) -> Any:
    answer = httpx2.post(f"{url}/embeddings", json={"input": source}, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()["embedding"][0]


def upload(url: str) -> Any:
    parts = [("file", ("a.jpg", JPEG, "image/jpeg"))]
    answer = httpx2.post(f"{url}/v1/embeddings", files=parts, timeout=20)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"][0]["embedding"]


CODED = base64.b64encode(JPEG).decode()
SOURCES: dict[str, Callable[[str, str], Any]] = {
    "url": lambda url, page: native(url, type="image_url", image_url=[page]),
    "base64": lambda url, page: native(url, type="image_base64", image_base64=[CODED]),
    "upload": lambda url, page: upload(url),
    "frames": lambda url, page: native(
        url, type="video_frames", video_frames=[{"type": "image_base64", "image_base64": CODED}]
    ),
    "manifest": lambda url, page: native(
        url, type="frames_batch", frames_manifest_path="manifest.json"
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_obeys_the_setting(
    source: str, server: tuple[FakeServing, JpegDecode], page: str
) -> None:
    running, decode = server
    vector = SOURCES[source](running.url, page)
    np.testing.assert_allclose(vector, vector_of(oracle(decode, TRANSFORM.size)), atol=1e-6)


def test_the_current_model_reports_it(server: tuple[FakeServing, JpegDecode]) -> None:
    running, decode = server
    answer = httpx2.get(f"{running.url}/model/current", timeout=20)
    assert answer.json()["jpeg_decode"] == decode
