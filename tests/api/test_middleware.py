"""What is around a request: its line in the log, its id, pages of other origins, its trace."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from multimodal_embedding_serving.api.app import CORS
from multimodal_embedding_serving.monitoring.logs import (
    OWN_LOGGERS,
    JsonLines,
    TerminalLog,
    TextLines,
    set_up_logging,
)
from tests.api.fakes import Start
from tests.api.test_errors import IMAGE
from tests.fakes import PATIENCE
from tests.media_files import write_video

TEXT = {"input": {"type": "text", "text": ["a private thought", "another"]}}


@contextmanager
def lines(form: logging.Formatter) -> Iterator[io.StringIO]:
    """What the service's loggers write meanwhile."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(form)
    logger = logging.getLogger(OWN_LOGGERS[0])
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    yield written
    logger.removeHandler(handler)
    logger.setLevel(before)


def parsed(written: io.StringIO) -> list[Any]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_each_request_is_one_line_with_its_id_and_what_became_of_it(start: Start) -> None:
    serving = start()
    with lines(JsonLines()) as written, httpx2.Client(base_url=serving.url) as http:
        http.post("/embeddings?key=s3cret", json=TEXT, headers={"x-request-id": "first"})
        http.get("/nowhere%0A2026 forged/line", headers={"x-request-id": "second"})
        serving.stop()
    requests = {each["request_id"]: each for each in parsed(written) if "status" in each}
    assert len([each for each in parsed(written) if "status" in each]) == 2
    first, second = requests["first"], requests["second"]
    assert (first["method"], first["path"], first["status"]) == ("POST", "/embeddings", 200)
    assert (first["items"], first["level"]) == (2, "info")
    assert first["ms"] > 0
    assert first["time"].endswith("+00:00")
    assert second["path"] == "/nowhere%0A2026%20forged/line"
    assert (second["status"], second["level"]) == (404, "debug")


def test_only_work_is_logged_at_the_default_level(start: Start) -> None:
    serving = start()
    with lines(JsonLines()) as written, httpx2.Client(base_url=serving.url) as http:
        for path in ("/", "/playground/main.js", "/live", "/ready", "/metrics", "/model/current"):
            http.get(path)
        http.post("/embeddings", json=TEXT)
        http.post("/embeddings", json={"input": {}})
        serving.stop()
    requests = [each for each in parsed(written) if "status" in each]
    assert len(requests) == 8
    loud = [(each["path"], each["status"]) for each in requests if each["level"] == "info"]
    assert loud == [("/embeddings", 200), ("/embeddings", 422)]


def test_the_line_counts_the_frames_that_were_embedded(start: Start) -> None:
    """A video's length is not known when it is admitted: up to EMBEDDING_MAX_FRAMES are counted."""
    serving = start()
    video = {
        "type": "video_base64",
        "video_base64": base64.b64encode(write_video(frames=9)).decode(),
        "segment_config": {"num_frames": 0},
    }
    with lines(JsonLines()) as written, httpx2.Client(base_url=serving.url) as http:
        answer = http.post("/embeddings", json={"input": video}, timeout=120)
        assert http.post("/embeddings", json={"input": {**video, "video_base64": "AAAA"}}).is_error
        page = http.get("/metrics").text
        serving.stop()
    assert len(answer.json()["embedding"]) == 9
    assert [each["items"] for each in parsed(written) if "status" in each][:2] == [9, 0]
    assert 'mmes_items_total{tower="image"} 9.0' in page
    for stage in ("decode", "wait", "compute"):
        assert f'mmes_stage_seconds_count{{stage="{stage}",tower="image"}}' in page


def test_a_line_for_people_ends_with_the_requests_id(start: Start) -> None:
    serving = start()
    with lines(TextLines()) as written:
        httpx2.post(f"{serving.url}/embeddings", json=TEXT, headers={"x-request-id": "mine"})
        serving.stop()
    (line,) = [each for each in written.getvalue().splitlines() if "/embeddings" in each]
    assert " INFO    POST /embeddings 200 " in line
    assert line.endswith("ms 2 items [mine]")


def test_no_line_holds_media_keys_texts_or_queries(start: Start) -> None:
    serving = start(api_keys=("k3y-of-ours",))
    right = {"authorization": "Bearer k3y-of-ours"}
    url = "http://user:s3cret@127.0.0.1:9/p.png?token=s3cret"
    with lines(JsonLines()) as written, httpx2.Client(base_url=serving.url) as http:
        http.post("/embeddings", json=TEXT, headers=right)
        http.post("/embeddings", json=TEXT, headers={"authorization": "Bearer wr0ng"})
        for image in (IMAGE, IMAGE[:-40], url):
            http.post("/v1/embeddings", json={"input": [{"image": image}]}, headers=right)
        http.post("/v1/embeddings?api_key=s3cret", content=b'{"s3cret": ', headers=right)
        serving.stop()
    said = written.getvalue()
    assert said.count('"status"') == 6
    for secret in ("k3y", "wr0ng", "s3cret", "thought", IMAGE[:30], IMAGE[40:70]):
        assert secret not in said


def test_a_failure_is_logged_with_the_id_in_the_response(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = start()

    async def explode(*_: object, **__: object) -> None:
        raise ValueError("of no interest to clients")

    monkeypatch.setattr(serving.running.service.engine, "embed_inputs", explode)
    with lines(JsonLines()) as written:
        answer = httpx2.post(f"{serving.url}/embeddings", json=TEXT)
        serving.stop()
    failure, access = [each for each in parsed(written) if "request_id" in each]
    assert answer.headers["x-request-id"] == failure["request_id"] == access["request_id"]
    assert failure["request_id"] in answer.json()["detail"]
    assert "ValueError: of no interest" in failure["exception"]
    assert access["status"] == 500


@pytest.mark.parametrize(("form", "level"), [("text", "debug"), ("json", "warning")])
def test_the_level_is_for_the_services_own_lines(
    form: str, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries would log URLs and headers: they are held at warnings whatever is asked for."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    set_up_logging(form, level)
    assert isinstance(root.handlers[0], TerminalLog)
    assert logging.getLogger(OWN_LOGGERS[0]).getEffectiveLevel() == getattr(logging, level.upper())
    for library in ("httpx2", "httpcore2", "PIL", "python_multipart", "asyncio"):
        assert not logging.getLogger(library).isEnabledFor(logging.INFO)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_no_other_origin_may_call_unless_it_is_listed(start: Start) -> None:
    page = {"origin": "https://page.example"}
    ask = {**page, "access-control-request-method": "POST"}
    with httpx2.Client(base_url=start().url) as http:
        assert (
            "access-control-allow-origin"
            not in http.post("/embeddings", json=TEXT, headers=page).headers
        )
        assert http.options("/embeddings", headers=ask).status_code == 405
    keyed = start(cors_origins="https://page.example", api_keys=("key",)).url
    with httpx2.Client(base_url=keyed) as http:
        before = http.options("/embeddings", headers=ask)
        assert before.status_code == 200, "it is asked without the key"
        assert before.headers["access-control-allow-origin"] == page["origin"]
        refused = http.post("/embeddings", json=TEXT, headers=page)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == page["origin"]
        assert refused.headers["x-request-id"]
        other = http.post("/embeddings", json=TEXT, headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers
    with httpx2.Client(base_url=start(cors_origins="*").url) as http:
        anyone = http.post("/embeddings", json=TEXT, headers={**page, "cookie": "a=b"})
        assert anyone.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in anyone.headers
    assert CORS["allow_credentials"] is False


class Collector(ThreadingHTTPServer):
    """An OTLP collector on the loopback, which keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """The tests look at the spans."""

        super().__init__(("127.0.0.1", 0), Handler)

    def take(self, request: ExportTraceServiceRequest) -> None:
        for each in request.resource_spans:
            attributes = {one.key: one.value.string_value for one in each.resource.attributes}
            self.services.add(attributes["service.name"])
            self.spans += [span for scope in each.scope_spans for span in scope.spans]


def test_requests_are_traced_where_an_exporter_is_configured(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with Collector() as collector:
        Thread(target=collector.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{collector.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        monkeypatch.setenv("NO_PROXY", "*")
        serving = start(traces=address)
        sent = {"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "mine"}
        httpx2.post(f"{serving.url}/embeddings", json=TEXT, headers=sent, timeout=PATIENCE)
        serving.stop()  # sends what is left
        collector.shutdown()
    spans = {span.name: span for span in collector.spans}
    request, work = spans["POST /embeddings"], spans["embed"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (trace, parent)
    assert work.parent_span_id == request.span_id
    attributes = {each.key: each.value for each in request.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["mmes.items"].int_value == 2
    assert attributes["mmes.request_id"].string_value == "mine"
    assert collector.services == {"multimodal-embedding-serving"}
    assert "thought" not in str(collector.spans)


def test_tracing_without_its_extra_is_a_line_that_names_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with lines(TextLines()) as written:
        serving = start(traces="http://127.0.0.1:9")
        assert httpx2.post(f"{serving.url}/embeddings", json=TEXT).status_code == 200
    assert "tracing needs the extra 'otel'" in written.getvalue()
