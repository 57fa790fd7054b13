"""The load client, against a server that answers at once."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load import (
    BadResponse,
    Connection,
    closed_loop,
    content_length,
    first_answer,
    open_loop,
    text_requests,
    vectors,
)
from benchmarks.processes import Server, ServerEnded, cpu_seconds, fields, peak_memory, tree
from benchmarks.systems import OURS, System, folder_bytes

ROW = np.array([0.6, 0.8], np.float32)
GOOD = json.dumps({"data": [{"embedding": base64.b64encode(ROW.tobytes()).decode()}]}).encode()


class Answering:
    """A server that counts requests and how many are open; `busy` first answers are 503."""

    def __init__(self, busy: int = 0, status: int = 200) -> None:
        self.busy, self.status = busy, status
        self.bodies: list[bytes] = []
        self.open = self.most = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.open += 1
                self.most = max(self.most, self.open)
                self.bodies.append(await reader.readexactly(content_length(head)))
                await asyncio.sleep(0)
                status = 503 if self.busy > 0 else self.status
                self.busy -= 1
                self.open -= 1
                writer.write(
                    b"HTTP/1.1 %d Word\r\ncontent-length: %d\r\n\r\n" % (status, len(GOOD))
                )
                writer.write(GOOD)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def answering(answer: Answering) -> AsyncIterator[Server]:
    listening = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    process = subprocess.Popen(  # noqa: ASYNC220  # starting it blocks nothing that is timed
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE
    )
    try:
        yield Server(OURS, port, process, time.perf_counter(), Path(os.devnull))
    finally:
        process.kill()
        process.communicate()
        listening.close()


async def test_a_closed_loop_keeps_its_callers_and_counts_every_item() -> None:
    answer = Answering()
    async with answering(answer) as server:
        requests = text_requests(["a", "b", "c", "d"], 2)
        trace = await closed_loop(server, requests, 3, 0.05)
    assert answer.most <= 3
    assert len(trace.latencies) == len(answer.bodies) >= 3
    assert trace.items == 2 * len(trace.latencies)
    assert {json.loads(body)["input"][0] for body in answer.bodies} == {"a", "c"}


async def test_each_caller_asks_once_however_short_the_time() -> None:
    answer = Answering()
    async with answering(answer) as server:
        trace = await closed_loop(server, text_requests(["a"]), 5, 0.0)
    assert len(trace.latencies) == 5


async def test_an_open_loop_sends_by_the_clock() -> None:
    answer = Answering()
    async with answering(answer) as server:
        trace = await open_loop(server, text_requests(["a"]), rate=200, seconds=0.1)
    assert len(trace.latencies) == 20
    assert trace.seconds > 0.09  # the last is due after 19 of 200ths of a second


async def test_a_kept_connection_that_the_server_has_closed_is_made_anew() -> None:
    requests = 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await reader.readuntil(b"\r\n\r\n")
        requests += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(once, "127.0.0.1", 0) as listening:
        connection = Connection(listening.sockets[0].getsockname()[1])
        raw = b"GET / HTTP/1.1\r\n\r\n"
        assert [await connection.post(raw) for _ in range(3)] == [b"ok"] * 3
        connection.close()
    assert requests == 3


async def test_an_error_ends_the_load() -> None:
    async with answering(Answering(status=500)) as server:
        with pytest.raises(ExceptionGroup) as caught:
            await closed_loop(server, text_requests(["a"]), 2, 1.0)
    assert caught.group_contains(BadResponse, match="500")


async def test_the_first_answer_is_waited_for_while_the_server_is_busy() -> None:
    answer = Answering(busy=2)
    async with answering(answer) as server:
        assert await first_answer(server, text_requests(["a"])[0]) > 0
    assert len(answer.bodies) == 3


async def test_a_refusal_that_waiting_can_not_mend_is_not_waited_out() -> None:
    async with answering(Answering(status=404)) as server:
        with pytest.raises(BadResponse, match="404"):
            await first_answer(server, text_requests(["a"])[0])


async def test_a_server_that_has_ended_is_not_waited_for() -> None:
    async with answering(Answering()) as server:
        server.process.kill()
        server.process.wait()
        with pytest.raises(ServerEnded, match="mmes exited"):
            await first_answer(server, text_requests(["a"])[0])


def test_vectors_are_read_from_base64() -> None:
    assert np.array_equal(vectors(GOOD), ROW[None])


@given(st.integers(0, 10**9), st.sampled_from(["Content-Length", "content-length"]))
def test_a_content_length_is_read_in_any_case(length: int, name: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nserver: x\r\n{name}: {length}\r\ndate: y\r\n\r\n"
    assert content_length(head.encode()) == length


def test_an_answer_without_a_length_is_refused() -> None:
    with pytest.raises(BadResponse):
        content_length(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")


def test_a_tree_holds_the_children_and_their_cpu_seconds() -> None:
    program = """
import subprocess, sys
count = "n = 0\\nwhile n < 1_000_000: n += 1\\n"  # several ticks of the clock that counts
exec(count)
subprocess.run([sys.executable, "-c", count + "print(1, flush=True); input()"])
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    parent.stdout.readline()
    processes = tree(parent.pid)
    assert processes[0] == parent.pid
    assert len(processes) == 2
    assert cpu_seconds(parent.pid) > cpu_seconds(processes[1]) > 0
    assert peak_memory(parent.pid) > peak_memory(processes[1]) > 1_000_000
    parent.communicate(b"\n")


def test_a_processes_name_may_hold_anything() -> None:
    assert fields("7 (a ) b (c) S 1 2") == ["S", "1", "2"]


def test_a_command_names_the_model_and_the_port() -> None:
    system = System("it", pip=[], command=["{python}", "-m", "{model}", "{port}"])
    assert system.argv(Path("/models/a"), 80)[2:] == ["/models/a", "80"]


def test_installed_bytes_leave_out_bytecode_and_links(tmp_path: Path) -> None:
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_bytes(b"123")
    (tmp_path / "a.py").write_bytes(b"12345")
    (tmp_path / "b.py").symlink_to(tmp_path / "a.py")
    assert folder_bytes(tmp_path) == 5
