"""Whether two models are comparable: bundles, names, servers, and Intel's MME, too."""

from __future__ import annotations

import base64
import dataclasses
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multimodal_embedding_serving.api.service import open_engine
from multimodal_embedding_serving.bundles.bundle import Bundle
from multimodal_embedding_serving.conversion.build import build_bundle
from multimodal_embedding_serving.diagnostics.compare import MIN_COSINE, Comparison, compare
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import (
    EmbeddingError,
    InvalidInput,
    RemoteFailed,
    Unauthorized,
    UnknownModel,
)
from multimodal_embedding_serving.settings import Settings
from tests.api.fakes import Running
from tests.cli.running import mmes
from tests.small_model import small_conversion, small_plans, small_weights

SETTINGS = Settings.from_env({}, precision="f32", model_cache=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def first(folder: Path) -> Bundle:
    return build_bundle(small_conversion(), folder / "first")


@pytest.fixture(scope="module")
def coarse(folder: Path) -> Bundle:
    """The same weights as eight-bit numbers."""
    return build_bundle(small_conversion(precision="int8-weights"), folder / "coarse")


@pytest.fixture(scope="module")
def other(folder: Path) -> Bundle:
    return build_bundle(small_conversion(seed=1), folder / "other")


@pytest.fixture(scope="module")
def one_tower(folder: Path) -> Bundle:
    """The text tower alone, as it is in the first."""
    conversion = small_conversion(plans=small_plans()[1:])
    return build_bundle(conversion, folder / "one_tower")


def measure(one: Bundle | str, two: Bundle | str, **options: Any) -> Comparison:
    names = [str(each.path) if isinstance(each, Bundle) else each for each in (one, two)]
    return compare(names[0], names[1], SETTINGS, **options)


def test_a_bundle_is_the_same_as_its_copy(first: Bundle, folder: Path) -> None:
    copy = build_bundle(small_conversion(), folder / "copy")
    comparison = measure(first, copy)
    assert comparison.comparable
    assert comparison.same
    assert comparison.verdict == "identical: the fingerprints are equal"
    assert set(comparison.cosines) == {"image", "text"}
    assert min(each.minimum for each in comparison.cosines.values()) > 0.999999


def test_another_precision_of_a_model_is_comparable_and_not_the_same(
    first: Bundle, coarse: Bundle
) -> None:
    comparison = measure(first, coarse)
    assert comparison.comparable
    assert not comparison.same
    assert comparison.verdict == f"comparable: the lowest cosine is at least {MIN_COSINE}"
    assert all(MIN_COSINE <= each.minimum <= 1.000001 for each in comparison.cosines.values())


def test_other_weights_are_not_comparable(first: Bundle, other: Bundle) -> None:
    comparison = measure(first, other)
    assert not comparison.comparable
    assert "not comparable: the lowest cosine is below" in comparison.report()


def test_one_tower_that_differs_is_enough(first: Bundle, folder: Path) -> None:
    weights = {**small_weights(), "see": small_weights(seed=1)["see"]}
    changed = small_conversion(plans=small_plans(weights=weights))
    comparison = measure(first, build_bundle(changed, folder / "half"))
    assert comparison.cosines["text"].minimum > 0.999999
    assert comparison.cosines["image"].minimum < MIN_COSINE
    assert not comparison.comparable


def test_only_what_both_embed_is_compared(first: Bundle, one_tower: Bundle) -> None:
    comparison = measure(first, one_tower)
    assert set(comparison.cosines) == {"text"}
    assert comparison.comparable


def test_models_that_embed_nothing_in_common_are_refused(one_tower: Bundle, folder: Path) -> None:
    images = small_conversion(plans=small_plans()[:1])
    with pytest.raises(
        InvalidInput, match=r"which embeds only text, with .* which embeds only image$"
    ):
        measure(one_tower, build_bundle(images, folder / "images"))


def test_vectors_of_different_lengths_are_not_comparable(first: Bundle, folder: Path) -> None:
    weights = {name: array[:4] if name in ("read", "see") else array
               for name, array in small_weights().items()}  # fmt: skip
    plans = [dataclasses.replace(plan, dimension=4) for plan in small_plans(weights=weights)]
    short = build_bundle(small_conversion(plans=plans), folder / "short")
    comparison = measure(first, short)
    assert not comparison.comparable
    assert comparison.cosines == {}
    assert comparison.verdict == "not comparable: the dimensions differ (8 and 4)"


def test_a_model_that_nobody_knows_is_refused(first: Bundle) -> None:
    with pytest.raises(UnknownModel):
        measure(first, "no-such-model")


# ── servers ──


@contextmanager
def our_server(bundle: Bundle, **changes: Any) -> Iterator[str]:
    settings = dataclasses.replace(SETTINGS, model=str(bundle.path), **changes)
    running = Running(settings, open_engine)
    try:
        running.wait_until_open()
        yield running.url
    finally:
        running.stop()


def test_our_own_server_tells_its_fingerprint(first: Bundle, other: Bundle) -> None:
    with our_server(first) as url:
        same = measure(url, first)
        assert same.same
        assert same.first.model == "Tests/small"
        assert min(each.minimum for each in same.cosines.values()) > 0.99999
        assert not measure(other, url).comparable


def test_the_key_is_sent_to_a_server(one_tower: Bundle) -> None:
    with our_server(one_tower, api_keys=("secret",)) as url:
        assert measure(url, one_tower, api_key="secret").comparable
        with pytest.raises(Unauthorized):
            measure(url, one_tower)


class MmeStandIn(ThreadingHTTPServer):
    """What Intel's MME answers: its fields and no others, floats only, one image at a time."""

    daemon_threads = True

    def __init__(self, engine: Engine) -> None:
        super().__init__(("127.0.0.1", 0), _MmeTalk)
        self.engine = engine
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _MmeTalk(BaseHTTPRequestHandler):
    server: MmeStandIn

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        answers: dict[str, Any] = {
            "/model/current": {"model": "small", "device": "CPU", "use_openvino": True},
            "/model/capabilities": {
                "model": "small", "modalities": ["image", "text"], "supports_text": True,
                "supports_image": True, "supports_video": True,
            },
        }  # fmt: skip
        self._send(answers.get(self.path))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert body["model"] == "small"
        assert body["encoding_format"] == "float"
        source = body["input"]
        if source["type"] == "text":
            rows = self.server.engine.embed(texts=source["text"], role="document").tolist()
        else:
            image = base64.b64decode(source["image_base64"])
            rows = self.server.engine.embed(images=image)[0].tolist()
        self._send({"embedding": rows})

    def _send(self, answer: Any) -> None:
        body = json.dumps(answer or {"detail": "Not Found"}).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def mme(bundle: Bundle) -> Iterator[str]:
    with Engine.open(settings=dataclasses.replace(SETTINGS, model=str(bundle.path))) as engine:
        standin = MmeStandIn(engine)
        thread = threading.Thread(target=standin.serve_forever, args=(0.02,))
        thread.start()
        yield standin.url
        standin.shutdown()
        standin.server_close()
        thread.join()


def test_mmes_vectors_are_measured_though_it_tells_no_fingerprint(
    first: Bundle, coarse: Bundle, other: Bundle
) -> None:
    with mme(first) as url:
        comparison = measure(coarse, url)
        assert comparison.comparable
        assert not comparison.same
        assert comparison.second.fingerprint is None
        assert "fingerprint not reported" in comparison.report()
        assert not measure(other, url).comparable


def test_a_server_that_is_away_or_is_none_of_ours_is_an_error(first: Bundle) -> None:
    with pytest.raises(RemoteFailed, match="could not connect to http"):
        measure(first, "http://127.0.0.1:9")
    with mme(first) as url, pytest.raises(EmbeddingError):
        measure(first, f"{url}/elsewhere")


# ── the command ──


def test_the_commands_exit_status_tells_the_verdict(
    first: Bundle, coarse: Bundle, other: Bundle, tmp_path: Path
) -> None:
    environ = {"EMBEDDING_OV_MODELS_DIR": str(tmp_path)}
    good = mmes("compare", str(first.path), str(coarse.path), "--json", **environ)
    assert good.returncode == 0, good.stderr
    facts = json.loads(good.stdout)
    assert facts["comparable"]
    assert facts["models"] == ["Tests/small", "Tests/small"]
    assert facts["cosines"]["text"]["minimum"] >= MIN_COSINE
    bad = mmes("compare", str(first.path), str(other.path), **environ)
    assert bad.returncode == 3
    assert bad.stdout.splitlines()[-1].startswith("not comparable")


def test_a_comparison_that_can_not_be_made_is_status_1(first: Bundle, tmp_path: Path) -> None:
    environ = {"EMBEDDING_OV_MODELS_DIR": str(tmp_path)}
    failed = mmes("compare", str(first.path), "http://127.0.0.1:9", **environ)
    assert failed.returncode == 1
    assert failed.stderr.startswith("mmes: ")
    assert np.char.count(failed.stderr, "Traceback") == 0
