"""A small real server on the loopback interface that speaks what the client speaks."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from multimodal_embedding_serving.types import Vector

DIMENSION = 4
Reply = tuple[int, dict[str, str], dict[str, Any]]


def vector_of(content: str) -> Vector:
    """What the small server answers for a text, a URL, or a picture's base64."""
    seed = int.from_bytes(hashlib.sha256(content.encode("utf-8", "replace")).digest()[:4], "little")
    vector = np.random.default_rng(seed).standard_normal(DIMENSION).astype("<f4")
    unit: Vector = vector / np.linalg.norm(vector)
    return unit


def on_wire(content: str, dimensions: int | None = None) -> str:
    return base64.b64encode(vector_of(content)[:dimensions].tobytes()).decode()


class SmallServer(ThreadingHTTPServer):
    """Remembers what it was asked; `refusals` are answered first, one per request."""

    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str | None] = []
        self.refusals: list[Reply] = []
        self.meeting = threading.Barrier(1)
        self.url = f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving_small() -> Iterator[SmallServer]:
    with SmallServer() as small:
        thread = threading.Thread(target=small.serve_forever, args=(0.01,))
        thread.start()
        yield small
        small.shutdown()
        thread.join()


class Exchange(BaseHTTPRequestHandler):
    server: SmallServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        answers: dict[str, dict[str, Any]] = {
            "/models": {"current_model": "M", "available_models": {"F": ["m"]}, "total_models": 1},
            "/model/current": {"model": "F/m", "dimension": DIMENSION},
            "/model/capabilities": {"model": "F/m", "modalities": ["text"]},
        }
        self.answer(200, {}, answers[self.path])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, body))
        self.server.keys.append(self.headers["authorization"])
        self.server.meeting.wait()
        if self.server.refusals:
            self.answer(*self.server.refusals.pop(0))
        elif self.path == "/v1/embeddings":
            size = body.get("dimensions")
            data = [
                {"index": i, "embedding": on_wire(t, size)} for i, t in enumerate(body["input"])
            ]
            self.answer(200, {}, {"object": "list", "data": data[::-1]})
        else:
            self.answer(200, {}, native(body["input"]))

    def answer(self, status: int, headers: dict[str, str], body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Quiet: the tests look at `asked`."""


def native(source: dict[str, Any]) -> dict[str, Any]:
    if source["type"] == "video_frames":
        return {"embedding": [on_wire(each[each["type"]]) for each in source["video_frames"]]}
    if source["type"].startswith("video"):
        frames = [{"index": 0, "timestamp": 0.0}, {"index": 12, "timestamp": 0.5}]
        return {"embedding": [on_wire("0"), on_wire("12")], "frames": frames}
    return {"embedding": [on_wire(each) for each in source[source["type"]]]}
