"""The server as replicas on a real local Ray cluster: over real sockets, with a node lost."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from multimodal_embedding_serving import Engine
from tests.media_files import photo, write_image

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]

PATIENCE = 120.0
APP = "multimodal-embedding-ms"


@pytest.fixture(scope="module")
def url(cluster: Any) -> Iterator[str]:
    """Where the replicas are reached: one at first, two under load."""
    from ray import serve

    from multimodal_embedding_serving.scale.ray_serve import Replicas, build

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    words = Replicas(
        cpus=1,
        most=2,
        ongoing=2,
        patience=1,
        environment={"EMBEDDING_MODEL_ALIASES": "mine"},
    )
    serve.run(build(words), name=APP)
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def running() -> int:
    """Replicas that answer."""
    from ray import serve

    (deployment,) = serve.status().applications[APP].deployments.values()
    return int(deployment.replica_states.get("RUNNING", 0))


def test_every_dialect_is_answered_as_by_a_server_of_its_own(url: str, tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(write_image("jpeg", photo(320, 240)))
    with Engine.open() as engine:
        alone = engine.embed(texts=["a cat", "a rocket"])
        image = engine.embed(images=picture)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    answer = client.embeddings.create(model="mine", input=["a cat", "a rocket"])
    assert np.abs(np.array([each.embedding for each in answer.data]) - alone).max() < 1e-5
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.embeddings.create(model="other", input="a cat")
    with httpx2.Client(base_url=url) as plain:
        assert plain.get("/ready").status_code == 200
        form = plain.post("/v1/embeddings", files={"file": ("a.jpg", picture.read_bytes())})
        assert np.abs(np.array(form.json()["data"][0]["embedding"]) - image).max() < 1e-5
        assert form.headers["x-request-id"]
        broken = plain.post("/embeddings", content=b"{")
        assert broken.status_code == 422
        assert "text/html" in plain.get("/").headers["content-type"]


async def test_load_makes_a_second_replica_and_a_lost_node_costs_no_answer(
    url: str, cluster: Any
) -> None:
    """Clients try again what a lost machine held, as Client and openai do by themselves."""
    stop = asyncio.Event()
    answered = retried = 0

    async def press(client: httpx2.AsyncClient, number: int) -> None:
        nonlocal answered, retried
        text = f"caller {number} " + "word " * 40
        body = {"input": {"type": "text", "text": text}}
        first: Any = None
        while not stop.is_set():
            try:
                answer = await client.post("/embeddings", json=body)
            except httpx2.TransportError:
                retried += 1
                continue
            if answer.status_code >= 500:
                retried += 1
                await asyncio.sleep(0.2)
                continue
            assert answer.status_code == 200, answer.text
            found = np.array(answer.json()["embedding"])
            first = found if first is None else first
            assert np.abs(found - first).max() < 1e-5
            answered += 1

    async with httpx2.AsyncClient(base_url=url, timeout=60) as client, asyncio.TaskGroup() as group:
        for number in range(16):
            group.create_task(press(client, number))
        await until(lambda: running() == 2)
        await asyncio.to_thread(cluster.remove_node, next(iter(cluster.worker_nodes)), False)
        before = answered
        await until(lambda: answered > before + 200)
        cluster.add_node(num_cpus=1)  # which may be done on the main thread only
        await until(lambda: running() == 2)
        stop.set()
    assert answered > 200


async def until(true: Any) -> None:
    begun = time.monotonic()
    while not await asyncio.to_thread(true):
        assert time.monotonic() < begun + PATIENCE
        await asyncio.sleep(0.1)
