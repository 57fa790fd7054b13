"""A real engine, towers, batchers and server over fake graphs: what the API tests talk to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from multimodal_embedding_serving.api.service import EngineFactory, Listening, Service
from multimodal_embedding_serving.api.uvicorn_server import Server, make_server
from multimodal_embedding_serving.batching.batcher import Batcher
from multimodal_embedding_serving.batching.tower import Prepare, Tower
from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.engine.engine import open_media
from multimodal_embedding_serving.engine.loader import ModelInfo
from multimodal_embedding_serving.engine.preprocess import prepare_images, time_preparing
from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.inputs.items import TextItem
from multimodal_embedding_serving.monitoring.metrics import Metrics
from multimodal_embedding_serving.settings import Settings
from multimodal_embedding_serving.transforms.image import ImageTransform
from multimodal_embedding_serving.types import Features, Modality, Progress, Row
from tests.fakes import PATIENCE, FakeGraph

MAX_LENGTH = 64
"""Letters that the fake text tower reads."""
TRANSFORM = ImageTransform(8, "squash", "bicubic", 4)
DIMENSION = 8


def text_row(text: str, role: str | None = None, instruction: str | None = None) -> Row:
    """The row of a text in a role: its letters after the role's and the instruction's."""
    prefix = {"query": "Q", "document": "D", None: "-"}[role] + (instruction or "")
    return np.array([ord(letter) for letter in (prefix + text)[:MAX_LENGTH]], np.int32)


def prepare_letters(raws: Sequence[TextItem]) -> list[Features | EmbeddingError]:
    ready: list[Features | EmbeddingError] = []
    for words in raws:
        text = words.text if isinstance(words.text, str) else "".join(map(chr, words.text))
        row = text_row(text, words.role, words.instruction)
        ready.append(Features(row, len(row), len(row), truncated=len(text) >= MAX_LENGTH))
    return ready


def fake_engine(
    settings: Settings,
    graphs: dict[Modality, FakeGraph],
    metrics: Metrics | None = None,
    reopen: Callable[[], Mapping[Modality, Tower]] | None = None,
    **facts: Any,
) -> Engine:
    """An engine over fake graphs, one tower for each."""
    metrics = metrics or Metrics()
    media = open_media(settings, metrics)
    towers: dict[Modality, Tower] = {}
    for modality, graph in graphs.items():
        images = modality == "image"
        prepare: Prepare = prepare_images(TRANSFORM, media) if images else prepare_letters
        on_stage = metrics.stage_times(modality)
        prepare = time_preparing(prepare, on_stage)
        batcher = Batcher(graph, name=modality, max_batch=16, max_cost=4096, on_stage=on_stage)
        window, chunk = (8, 1) if images else (64, 8)
        towers[modality] = Tower(
            modality,
            graph,
            prepare,
            pool=media.workers,
            batcher=batcher,
            window=window,
            slice_size=chunk,
        )
    defaults: dict[str, Any] = {
        "id": "CLIP/clip-vit-b-32",
        "family": "CLIP",
        "dimension": DIMENSION,
        "min_dimension": DIMENSION,
        "modalities": tuple(graphs),
        "device": "CPU",
        "backend": "openvino",
        "precision": "f16",
        "fingerprint": "fa4e-f32",
        "text_length": MAX_LENGTH,
        "logit_scale": 100.0,
    }
    info = ModelInfo(**{**defaults, **facts})
    return Engine(info, towers, settings, media=media, metrics=metrics, reopen=reopen)


class Running:
    """A server in a thread of this process, on a free port of the loopback."""

    def __init__(
        self, settings: Settings, factory: EngineFactory, listening: Listening | None = None
    ) -> None:
        self.service = Service(settings)
        self.server: Server = make_server(self.service, listening, factory)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self.server.run, args=([self._socket],))
        self._thread.start()

    def wait_until_open(self) -> None:
        assert self.service.opened.wait(PATIENCE), "the engine was never opened"

    def stop(self) -> None:
        self.server.should_exit = True
        self.join()

    def join(self) -> None:
        """Wait for the server to end."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the server did not stop"


class FakeServing:
    """A running server over fake graphs."""

    def __init__(self, modalities: Sequence[Modality] = ("text", "image"), **changes: Any) -> None:
        facts = changes.pop("facts", {})
        listening = Listening(root_path=changes.pop("root_path", ""))
        self.graphs: dict[Modality, FakeGraph] = {each: FakeGraph(DIMENSION) for each in modalities}
        self.settings = Settings.from_env({}, **changes)

        def factory(settings: Settings, progress: Progress, metrics: Metrics) -> Engine:
            return fake_engine(settings, self.graphs, metrics, **facts)

        self.running = Running(self.settings, factory, listening)
        self.running.wait_until_open()

    @property
    def url(self) -> str:
        return self.running.url

    def stop(self) -> None:
        for graph in self.graphs.values():
            graph.release()
        self.running.stop()


Start = Callable[..., FakeServing]
