"""A real local Ray cluster of several nodes: bulk jobs and replicas, each with a node lost.

All of it in one file, so that one cluster serves it. Nodes are lost by SIGKILL of all their
processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from benchmarks.processes import free_port
from multimodal_embedding_serving import Engine
from multimodal_embedding_serving.bulk.job import Tally
from tests.cli.running import mmes
from tests.lazy import lazy
from tests.media_files import photo, write_image, write_video

openai = lazy("openai")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")]

ROOT = Path(__file__).parent.parent.parent
PHOTOS, SHARD = 300, 10
PATIENCE = 240.0
APP = "multimodal-embedding-ms"


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that are all different, a video, and one file that is not an image."""
    folder = tmp_path_factory.mktemp("media")
    for number in range(PHOTOS):
        image = photo(320, 240, number)
        image.paste((number % 256, number // 256, 99), (0, 0, 60 + number % 99, 80))
        (folder / f"{number:04}.jpg").write_bytes(write_image("jpeg", image))
    (folder / "film.mp4").write_bytes(write_video("mp4", frames=12))
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def table(out: Path) -> pa.Table:
    return ds.dataset(out, format="parquet").to_table()


def vectors(out: pa.Table) -> dict[tuple[str, int | None], NDArray[np.float32]]:
    """(name, frame) -> vector; each is there once."""
    names = [(Path(row["path"]).name, row["frame"]) for row in out.to_pylist()]
    assert not [name for name, count in Counter(names).items() if count > 1]
    flat = out["vector"].combine_chunks().flatten().to_numpy()
    return dict(zip(names, flat.reshape(len(names), -1), strict=True))


def test_a_lost_node_costs_no_row_and_makes_none_twice(
    cluster: Any, media: Path, tmp_path: Path
) -> None:
    from multimodal_embedding_serving.scale.ray_data import Options, embed

    out = tmp_path / "out"
    done: list[Tally] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            done.append(embed([media], out, Options(cpus=1, shard_items=SHARD)))
        except BaseException as error:
            errors.append(error)
            raise

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    started = time.monotonic()
    while thread.is_alive() and not in_the_middle(out):
        assert time.monotonic() < started + PATIENCE, "the nodes were never at work together"
        time.sleep(0.01)
    lost = next(iter(cluster.worker_nodes))
    cluster.remove_node(lost, allow_graceful=False)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert not errors
    (tally,) = done
    assert tally.failed == 1
    assert tally.embedded == PHOTOS + 1
    rows = vectors(table(out))
    assert len(rows) == tally.rows == PHOTOS + 12
    with Engine.open() as engine:
        names = [f"{number:04}.jpg" for number in range(PHOTOS)]
        alone = engine.embed(images=[media / name for name in names])
    together = np.stack([rows[name, None] for name in names])
    assert np.abs(together - alone).max() < 1e-5
    lines = [
        json.loads(line)
        for path in (out / "_errors").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert [Path(line["path"]).name for line in lines] == ["broken.jpg"]
    assert not list(out.glob("_*.parquet"))
    cluster.add_node(num_cpus=1)  # for the tests that follow


def in_the_middle(out: Path) -> bool:
    """Both nodes have a shard under way, some shards are done, and many are not."""
    done = len(list(out.glob("part-*")))
    return len(list(out.glob("_*.parquet"))) == 2 and 2 <= done < PHOTOS / SHARD - 5


def test_a_table_is_embedded_by_rows_and_a_second_run_has_nothing_to_do(
    cluster: Any, tmp_path: Path
) -> None:
    from multimodal_embedding_serving.scale.ray_data import Options, embed

    texts = [f"a photo of {number} cats" for number in range(50)]
    pq.write_table(pa.table({"text": texts, "id": texts}), tmp_path / "list.parquet")
    options = Options(cpus=1, shard_items=20, dtype="f16")
    tally = embed([tmp_path / "list.parquet"], tmp_path / "out", options)
    assert (tally.embedded, tally.rows, tally.unchanged) == (50, 50, 0)
    result = table(tmp_path / "out")
    assert sorted(result["path"].to_pylist()) == sorted(texts)
    assert result.schema.field("vector").type.value_type == pa.float16()
    again = embed([tmp_path / "list.parquet"], tmp_path / "out", options)
    assert (again.embedded, again.rows, again.unchanged) == (0, 50, 50)


@pytest.fixture(scope="class")
def url(cluster: Any) -> Iterator[str]:
    """Where the replicas are reached: one at first, two under load."""
    from ray import serve

    from multimodal_embedding_serving.scale.ray_serve import build
    from multimodal_embedding_serving.scale.replicas import Replicas

    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    replicas = Replicas(
        num_cpus=1,
        max_replicas=2,
        target_ongoing_requests=2,
        upscale_delay_s=1,
        environment={"EMBEDDING_MODEL_ALIASES": "mine"},
    )
    serve.run(build(replicas), name=APP)
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def running() -> int:
    """Replicas that answer."""
    from ray import serve

    (deployment,) = serve.status().applications[APP].deployments.values()
    return int(deployment.replica_states.get("RUNNING", 0))


class TestReplicas:
    def test_every_dialect_is_answered_as_by_a_server_of_its_own(
        self, url: str, tmp_path: Path
    ) -> None:
        path = tmp_path / "a.jpg"
        path.write_bytes(write_image("jpeg", photo(320, 240)))
        with Engine.open() as engine:
            alone = engine.embed(texts=["a cat", "a rocket"])
            image = engine.embed(images=path)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        answer = client.embeddings.create(model="mine", input=["a cat", "a rocket"])
        assert np.abs(np.array([each.embedding for each in answer.data]) - alone).max() < 1e-5
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.embeddings.create(model="other", input="a cat")
        with httpx2.Client(base_url=url) as plain:
            assert plain.get("/ready").status_code == 200
            form = plain.post("/v1/embeddings", files={"file": ("a.jpg", path.read_bytes())})
            assert np.abs(np.array(form.json()["data"][0]["embedding"]) - image).max() < 1e-5
            assert form.headers["x-request-id"]
            broken = plain.post("/embeddings", content=b"{")
            assert broken.status_code == 422
            assert "text/html" in plain.get("/").headers["content-type"]

    async def test_load_makes_a_second_replica_and_a_lost_node_costs_no_answer(
        self, url: str, cluster: Any
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
                row = np.array(answer.json()["embedding"])
                first = row if first is None else first
                assert np.abs(row - first).max() < 1e-5
                answered += 1

        async with (
            httpx2.AsyncClient(base_url=url, timeout=60) as client,
            asyncio.TaskGroup() as group,
        ):
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
    started = time.monotonic()
    while not await asyncio.to_thread(true):
        assert time.monotonic() < started + PATIENCE
        await asyncio.sleep(0.1)


def test_the_readmes_lines_serve_and_embed_on_a_cluster(
    cluster: Any, tmp_path: Path, samples: Path
) -> None:
    """But for the line that starts one, for this one is there."""
    from ray import serve

    readme = (ROOT / "README.md").read_text("utf-8")
    (code,) = re.findall(r"^```bash\n([^`]*ray start.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    lines = [line for line in code.splitlines() if not line.startswith(("ray st", "pip "))]
    port = free_port()
    script = "\n".join(lines).replace("vectors/", f"{tmp_path}/vectors/")
    script = script.replace(":8000", f":{port}").replace(" photos ", f" {samples} ")
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_ADDRESS": cluster.address,
    }
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"dimension":384' in done.stdout.replace(" ", "")
    assert "71 vectors; 8 inputs embedded" in done.stdout


def test_a_cluster_that_does_not_answer_is_an_error_soon(tmp_path: Path) -> None:
    """The port accepts connections, as one of a frozen process does, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        done = mmes("embed", str(tmp_path), "--ray", address, "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"mmes: the Ray cluster at {address} did not answer within 10 s")
    assert time.monotonic() - started < 40  # and not the minutes that Ray takes
    assert not (tmp_path / "out").exists()
