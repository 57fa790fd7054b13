"""The server around the routes: opening, load, keys, ids, metrics, drain."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import UnknownModel
from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.types import Progress
from tests.api.fakes import DIMENSION, FakeServing, Running, Start, fake_engine
from tests.conftest import Figure
from tests.fakes import PATIENCE, FakeGraph
from tests.lazy import lazy
from tests.media_files import write_video

openai = lazy("openai")

TEXT = {"input": {"type": "text", "text": "a"}}


class Slow:
    """A factory that waits in the middle of opening until `go` is set."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self, settings: Settings, progress: Progress, metrics: Metrics) -> Engine:
        progress("converting the model", 0.4)
        self.began.set()
        assert self.go.wait(PATIENCE)
        return fake_engine(settings, {"text": FakeGraph(DIMENSION)}, metrics)


@pytest.fixture
def opening() -> Iterator[tuple[Slow, Running]]:
    slow = Slow()
    running = Running(Settings.from_env({}), slow)
    assert slow.began.wait(PATIENCE)
    yield slow, running
    slow.go.set()
    running.wait_until_open()
    running.stop()


def test_the_server_listens_while_the_model_is_opened(opening: tuple[Slow, Running]) -> None:
    slow, running = opening
    with httpx2.Client(base_url=running.url) as http:
        ready = http.get("/ready")
        assert (ready.status_code, ready.json()["percent"]) == (503, 40)
        assert ready.json()["stage"] == "converting the model"
        assert http.get("/health").status_code == 503
        assert http.get("/live").status_code == 200
        assert http.get("/model/capabilities").json()["detail"] == "Model is not initialized"
        assert http.post("/embeddings", json=TEXT).status_code == 503
        early = http.post("/v1/embeddings", json={"input": "a"})
        assert (early.status_code, early.headers["x-should-retry"]) == (503, "true")
        slow.go.set()
        running.wait_until_open()
        assert http.get("/ready").status_code == 200
        assert http.post("/embeddings", json=TEXT).status_code == 200


def test_a_model_that_cant_be_opened_ends_the_server() -> None:
    def factory(settings: Settings, progress: Progress, metrics: Metrics) -> Engine:
        raise UnknownModel("no model is named 'x'")

    running = Running(Settings.from_env({}), factory)
    running.wait_until_open()
    running.join()
    assert running.service.failure == "no model is named 'x'"


def test_health_answers_while_the_engine_is_saturated(start: Start, figure: Figure) -> None:
    serving = start()
    graph = serving.graphs["text"]
    graph.hold()
    with ThreadPoolExecutor(16) as clients, httpx2.Client(base_url=serving.url) as http:
        many = {"input": {"type": "text", "text": [f"text {n}" for n in range(200)]}}
        waiting = [
            clients.submit(httpx2.post, f"{serving.url}/embeddings", json=many, timeout=60)
            for _ in range(16)
        ]
        graph.wait_for_call()
        probes = [http.get("/health") for _ in range(50)]
        assert {answer.status_code for answer in probes} == {200}
        assert not any(future.done() for future in waiting)
        times = [answer.elapsed.total_seconds() for answer in probes]
        graph.release()
        assert {future.result().status_code for future in waiting} == {200}
    middle, worst = sorted(times)[25] * 1e3, max(times) * 1e3
    figure(f"/health of a saturated server: median {middle:.1f} ms, worst of 50 {worst:.1f} ms")


def test_a_full_queue_is_a_429_with_retry_after(start: Start) -> None:
    serving = start(queue_limit=4)
    serving.graphs["text"].hold()
    with ThreadPoolExecutor(1) as clients, httpx2.Client(base_url=serving.url) as http:
        four = {"input": {"type": "text", "text": list("abcd")}}
        first = clients.submit(httpx2.post, f"{serving.url}/embeddings", json=four)
        serving.graphs["text"].wait_for_call()
        full = http.post("/embeddings", json=TEXT)
        assert (full.status_code, full.headers["retry-after"]) == (429, "1")
        full = http.post("/v1/embeddings", json={"input": "a"})
        assert full.json()["error"]["code"] == "rate_limit_exceeded"
        assert full.headers["x-should-retry"] == "true"
        serving.graphs["text"].release()
        assert first.result().status_code == 200
        assert http.post("/embeddings", json=TEXT).status_code == 200


def test_work_of_a_client_that_has_gone_never_reaches_the_graph(start: Start) -> None:
    serving = start()
    graph = serving.graphs["text"]
    graph.hold()
    with ThreadPoolExecutor(1) as clients:
        first = clients.submit(httpx2.post, f"{serving.url}/embeddings", json=TEXT, timeout=60)
        graph.wait_for_call()
        gone = {"input": {"type": "text", "text": "never mind"}}
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.post(f"{serving.url}/embeddings", json=gone, timeout=0.2)
        while serving.running.service.active > 1:  # the server hears of it on its own loop
            httpx2.get(f"{serving.url}/live")
        graph.release()
        first.result()
    assert graph.sizes == [1]


def test_every_route_but_the_probes_wants_the_key(start: Start) -> None:
    serving = start(api_keys=("first", "sécond"))
    with httpx2.Client(base_url=serving.url) as http:
        for path in ("/live", "/ready", "/health", "/docs", "/docs/start.js", "/openapi.json"):
            assert http.get(path).status_code == 200
        for path in ("/models", "/metrics", "/v1/models", "/nowhere", "/docsx"):
            assert http.get(path).status_code == 401
        refused = http.post("/embeddings", json=TEXT)
        assert refused.json()["code"] == "invalid_api_key"
        for key in ("", "Bearer", "Bearer wrong", "Basic first", "Bearer first,second"):
            answer = http.post("/embeddings", json=TEXT, headers={"authorization": key})
            assert answer.status_code == 401
        for key in ("Bearer first", "bearer  first", "Bearer sécond"):
            sent = {b"authorization": key.encode()}
            answer = http.post("/embeddings", json=TEXT, headers=sent)
            assert answer.status_code == 200


def test_openais_client_sees_a_wrong_key_as_its_own_error(start: Start) -> None:
    url = start(api_keys=("right",)).url
    with openai.OpenAI(base_url=f"{url}/v1", api_key="wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.embeddings.create(model="clip-vit-b-32", input="a")
        assert caught.value.code == "invalid_api_key"
    with openai.OpenAI(base_url=f"{url}/v1", api_key="right") as client:
        assert client.embeddings.create(model="clip-vit-b-32", input="a").data


def test_a_request_id_is_echoed_or_made(http: httpx2.Client) -> None:
    mine = http.get("/live", headers={"x-request-id": "my-id"})
    assert mine.headers["x-request-id"] == "my-id"
    for odd in ("x" * 200, "two words"):
        generated = http.get("/live", headers={"x-request-id": odd}).headers["x-request-id"]
        assert len(generated) == 32
    assert http.get("/nowhere").headers["x-request-id"]


def test_metrics_count_requests_by_route_items_and_errors(start: Start) -> None:
    with httpx2.Client(base_url=start().url) as http:
        http.post("/embeddings", json={"input": {"type": "text", "text": ["a", "b"]}})
        http.post("/embeddings", json={"input": {"type": "text", "text": 5}})
        http.get("/some/path/of/a/scanner")
        http.get("/v1/models/mini")
        page = http.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    assert 'mmes_requests_total{route="/embeddings",status="200"} 1.0' in page.text
    assert 'mmes_requests_total{route="unknown",status="404"} 1.0' in page.text
    assert 'mmes_requests_total{route="/v1/models/{model:path}",status=' in page.text
    assert 'mmes_items_total{tower="text"} 2.0' in page.text
    assert 'mmes_errors_total{code="invalid_input"} 1.0' in page.text
    assert "scanner" not in page.text


def test_the_openapi_document_describes_bodies_answers_and_errors(http: httpx2.Client) -> None:
    document = http.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for path, names in (
        ("/embeddings", ("EmbeddingsRequest", "OpenAIRequest")),
        ("/v1/embeddings", ("OpenAIRequest", "ChatRequest")),
    ):
        operation = document["paths"][path]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        choices = body.get("anyOf", [body])
        assert choices == [{"$ref": f"#/components/schemas/{name}"} for name in names]
        assert all(schemas[name]["examples"] for name in names)
    assert set(references(document)) <= {f"#/components/schemas/{name}" for name in schemas}
    assert len(schemas["EmbeddingsRequest"]["properties"]["input"]["oneOf"]) == 9


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from ([node["$ref"]] if isinstance(node.get("$ref"), str) else [])
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_a_stopping_server_finishes_its_work_and_takes_no_more(start: Start) -> None:
    serving: FakeServing = start()
    graph = serving.graphs["text"]
    graph.hold()
    with ThreadPoolExecutor(1) as clients, httpx2.Client(base_url=serving.url) as http:
        first = clients.submit(httpx2.post, f"{serving.url}/embeddings", json=TEXT, timeout=60)
        graph.wait_for_call()
        serving.running.server.handle_exit(15, None)
        assert http.get("/ready").status_code == 503
        assert http.get("/live").status_code == 200
        assert http.post("/embeddings", json=TEXT).status_code == 503
        graph.release()
        assert first.result().status_code == 200
    serving.running.join()


def test_the_examples_of_the_document_work_as_they_stand(start: Start, tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(write_video(frames=9))
    with httpx2.Client(base_url=start(media_roots=(tmp_path,)).url) as http:
        schemas = http.get("/openapi.json").json()["components"]["schemas"]
        bodies = {"/embeddings": "EmbeddingsRequest", "/v1/embeddings": "OpenAIRequest"}
        for path, name in bodies.items():
            for example in schemas[name]["examples"]:
                if "image_url" not in example["input"]:
                    answer = http.post(path, json=example)
                    assert answer.status_code == 200, (example, answer.text)
