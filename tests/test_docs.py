"""docs/ matches the code: generated parts are current, and its requests work."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest

from multimodal_embedding_serving.catalog import MODELS, resolve
from multimodal_embedding_serving.conversion.parity import BOUNDS
from multimodal_embedding_serving.inputs.kinds import KINDS
from scripts.generate_docs import DOCS, ROOT, TARGETS, render
from tests.serving import serving

API = (DOCS / "api.md").read_text("utf-8")
REQUESTS = re.findall(r"^```json\n(.*?)^```$", API, re.MULTILINE | re.DOTALL)
COMPARED = {"/classify": "data", "/score": "data", "/v1/rerank": "results", "/v2/rerank": "results"}
"""Path -> the field of its answer that is a list."""
WEB = "https://example.com"


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_generated_is_current(name: str) -> None:
    assert (ROOT / name).read_text("utf-8") == render(name), "run `make docs`"


def test_every_row_was_measured_at_its_true_size() -> None:
    """In full, and within what a conversion promises: twice its result, and its bound. Only a row
    that the catalog marks as not yet measured may be missing."""
    measured = {each["model"]: each for each in json.loads((DOCS / "real_sizes.json").read_text())}
    specs = [spec for spec in MODELS if spec.repos and (spec.measured or spec.id in measured)]
    assert list(measured) == [spec.id for spec in specs]
    for model, each in measured.items():
        assert each["precision"] == resolve(model).precision
        assert each["building_mb"] < 2 * each["bundle_mb"], model
        assert min(each["cosine"].values()) >= (BOUNDS[each["precision"]] or 0), model


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_kind_of_input_has_an_example() -> None:
    kinds = {get_args(each.model_fields["type"].annotation)[0] for each in KINDS}
    examples = {json.loads(each)["input"]["type"] for each in REQUESTS if '"input": {' in each}
    assert kinds == examples
    assert len(kinds) == len(KINDS)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Do nothing: the tests check the responses."""


@pytest.fixture(scope="module")
def web(samples: Path) -> Iterator[str]:
    """The samples on a local web server."""
    site = partial(Quiet, directory=str(samples))
    with ThreadingHTTPServer(("127.0.0.1", 0), site) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """A media root with the samples and a manifest of two frames of the video and a missing one."""
    folder = tmp_path_factory.mktemp("media")
    shutil.copytree(samples, folder, dirs_exist_ok=True)
    frames = [{"frame_number": n, "timestamp": n / 12, "type": "full_frame"} for n in (0, 12)]
    missing = {"frame_number": 30, "timestamp": 2.5, "type": "full_frame", "image_path": "gone.jpg"}
    manifest = {"video_path": str(folder / "film.mp4"), "frames": [*frames, missing]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def address(web: str, roots: Path) -> Iterator[str]:
    allowed = {
        "EMBEDDING_MEDIA_ALLOWED_HOSTS": web.removeprefix("http://"),
        "EMBEDDING_MEDIA_ROOTS": str(roots),
    }
    command = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]
    with serving(command, environ=allowed) as running:
        yield running.url


@pytest.mark.parametrize("request_text", REQUESTS)
def test_an_example_is_answered(request_text: str, address: str, web: str, samples: Path) -> None:
    def encoded(match: re.Match[str]) -> str:
        return base64.b64encode((samples / match[1]).read_bytes()).decode()

    body = json.loads(re.sub(r"<base64 of ([\w.]+)>", encoded, request_text.replace(WEB, web)))
    path = "/embeddings" if isinstance(body.get("input"), dict) else "/v1/embeddings"
    path = path if "input" in body or "messages" in body else "/v2/embed"
    path = path_of(request_text) if path_of(request_text) in COMPARED else path
    reply = httpx2.post(address + path, json=body, timeout=60, trust_env=False)
    assert reply.status_code == 200, reply.text
    answer = reply.json()
    if path in COMPARED:
        assert answer[COMPARED[path]]
    elif path == "/v2/embed":
        inputs = next(body[key] for key in ("texts", "images", "inputs") if key in body)
        assert len(answer["embeddings"]["float"]) == len(inputs)
    elif path == "/v1/embeddings":
        assert len(answer["data"]) == len(body.get("input") or [body["messages"]])
    elif body["input"]["type"] == "frames_batch":
        assert len(answer["embedding"]) == 2
        assert [each["frame_number"] for each in answer["skipped"]] == [30]
    else:
        assert len(answer["embedding"]) == expected(body["input"])


def test_every_example_of_the_openapi_page_runs_as_it_stands(address: str) -> None:
    document = httpx2.get(f"{address}/openapi.json", trust_env=False).json()
    sent = 0
    for path, methods in document["paths"].items():
        content = methods.get("post", {}).get("requestBody", {}).get("content", {})
        body = content.get("application/json", {}).get("schema", {})
        names = [each["$ref"].rpartition("/")[2] for each in body.get("anyOf", [body]) if each]
        schemas = document["components"]["schemas"]
        for example in (each for name in names for each in schemas[name]["examples"]):
            reply = httpx2.post(address + path, json=example, timeout=60, trust_env=False)
            assert reply.status_code == 200, reply.text
            sent += 1
    assert sent >= 10


def path_of(request_text: str) -> str:
    """The path in the heading that a request of the page is under."""
    before = API[: API.index(request_text)]
    paths: list[str] = re.findall(r"^## .*POST (\S+)$", before, re.MULTILINE)
    return paths[-1]


def expected(source: dict[str, Any]) -> int:
    """The length of `embedding` in a response: numbers of a vector, or vectors of a list."""
    content = source.get(source["type"])
    if isinstance(content, list):
        return len(content)
    segment = source.get("segment_config", {})
    if source["type"].startswith("video") and "pooling" not in segment:
        frames: int = segment.get("num_frames", 64)
        return frames
    return 384
