"""The server and the processes that decode its videos: killed, hung, and gone with it."""

from __future__ import annotations

import base64
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import pytest

from multimodal_embedding_serving.conversion.build import build_bundle
from tests.media.processes import children, eventually, open_files, runs
from tests.media_files import write_video
from tests.serving import Running, serving
from tests.small_model import small_conversion

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are Linux's own")

COMMAND = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]
CLIP = write_video("mp4", 40)


@cache
def long_video() -> bytes:
    return write_video("mp4", 60, size=(1280, 720))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(small_conversion(), tmp_path_factory.mktemp("models") / "small").path


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where the server would put temporary files."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def running(bundle: Path, scratch: Path) -> Iterator[Running]:
    with serving([*COMMAND, "--model", str(bundle)], environ={"TMPDIR": str(scratch)}) as started:
        yield started


def ask(server: Running, clip: bytes, **segment: Any) -> httpx2.Response:
    source = {
        "type": "video_base64",
        "video_base64": base64.b64encode(clip).decode(),
        "segment_config": segment,
    }
    url = f"{server.url}/embeddings"
    return httpx2.post(url, json={"input": source}, timeout=120, trust_env=False)


def vectors(answer: httpx2.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["embedding"]


def decoders(server: Running) -> list[int]:
    return children(server.process.pid)


def test_a_killed_process_is_replaced_and_the_next_video_is_right(running: Running) -> None:
    assert decoders(running) == [], "there is none before the first video"
    expected = vectors(ask(running, CLIP))
    for _ in range(3):
        for pid in decoders(running):
            os.kill(pid, signal.SIGKILL)
        assert vectors(ask(running, CLIP)) == expected


def test_the_processes_are_gone_after_the_servers_end(running: Running) -> None:
    vectors(ask(running, CLIP))
    (pid,) = decoders(running)
    assert running.stop() == 0
    assert eventually(lambda: not runs(pid))


def test_the_processes_are_gone_after_the_servers_kill(running: Running, scratch: Path) -> None:
    vectors(ask(running, CLIP))
    (pid,) = decoders(running)
    with ThreadPoolExecutor(1) as client:
        future = client.submit(ask, running, long_video())
        running.process.kill()
        assert eventually(lambda: not runs(pid))
        assert isinstance(future.exception(), httpx2.TransportError) or future.result().is_success
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
def test_a_process_that_hangs_ends_in_a_504(bundle: Path) -> None:
    environ = {"EMBEDDING_REQUEST_TIMEOUT_SEC": "10"}
    with serving([*COMMAND, "--model", str(bundle)], environ=environ) as server:
        expected = vectors(ask(server, CLIP))
        for pid in decoders(server):
            os.kill(pid, signal.SIGSTOP)
        assert ask(server, CLIP).status_code == 504
        assert vectors(ask(server, CLIP)) == expected


@pytest.mark.slow
def test_kills_under_load_leave_right_answers_or_clean_errors(
    running: Running, scratch: Path
) -> None:
    clips = (CLIP, long_video())
    expected = [vectors(ask(running, clip, num_frames=16)) for clip in clips]
    before, chance, enough = open_files(running.process.pid), random.Random(6), threading.Event()

    def kill() -> int:
        killed = 0
        while not enough.wait(chance.uniform(0.0, 0.8)):
            for pid in decoders(running)[:1]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed += 1
        return killed

    with ThreadPoolExecutor(9) as threads:
        killing = threads.submit(kill)
        which = [place % 2 for place in range(60)]
        answers = list(threads.map(lambda place: ask(running, clips[place], num_frames=16), which))
        enough.set()
        assert killing.result() > 0
    for place, answer in zip(which, answers, strict=True):
        if answer.status_code == 200:
            assert vectors(answer) == expected[place]
        else:
            assert answer.status_code in (422, 503), answer.text
            assert "decode" in answer.text
    assert vectors(ask(running, CLIP, num_frames=16)) == expected[0]
    assert list(scratch.iterdir()) == []
    # idle connections and the channels of two processes may be open now that were not before
    assert eventually(lambda: open_files(running.process.pid) <= before + 4)
