"""Where there is no network: what is converted serves, and nothing reaches for one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conversion import CONVERTED, LAION, ROW, TEXTS, Place
from tests.hub_standin import HubStandIn
from tests.serving import PATIENCE
from tests.small_clip import repository, write_clip

ISOLATED = """
import fcntl, os, runpy, socket, struct, sys
lo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(lo, 0x8914, struct.pack("16sh14x", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
assert open("/proc/net/dev").read().count(":") == 1, "another interface is there"
def watch(event, given):
    hosts = {"socket.connect": given[1:2], "socket.getaddrinfo": given[:1]}
    host = hosts.get(event, ("",))[0]
    host = host[0] if isinstance(host, tuple) else host
    if host not in ("", None, b"", "127.0.0.1", b"127.0.0.1", "localhost"):
        os.write(2, f"OUTBOUND {event} {given}\\n".encode())
sys.addaudithook(watch)
sys.argv = ["mmes", *sys.argv[1:]]
runpy.run_module("multimodal_embedding_serving", run_name="__main__")
"""
"""Runs `mmes` where only loopback exists, and tells every attempt to reach something else."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("checkpoints") / "small")


@pytest.fixture
def place(hub: HubStandIn, checkpoint: Path, tmp_path: Path) -> Place:
    hub.add(LAION, repository(checkpoint))
    return Place(hub, tmp_path)


def without_network(*arguments: str) -> Sequence[str]:
    apart = ["unshare", "--net"] + (["--map-root-user"] if os.geteuid() else [])
    return [*apart, sys.executable, "-c", ISOLATED, *arguments]


def test_a_converted_model_serves_where_there_is_no_network(place: Place, tmp_path: Path) -> None:
    with place.reopen() as engine:
        expected = engine.embed(texts=TEXTS)
    place.hub.close()
    command = [*without_network("serve", "--port", "0")]
    process = subprocess.Popen(
        command,
        env={**os.environ, **place.environ},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        log, address = "", None
        while address is None:
            line = process.stdout.readline()
            assert line, log
            log += line
            address = re.search(r"running on http://127.0.0.1:(\d+)", line)
        ask = (
            "import json, sys, time, urllib.request as web\n"
            f"base = 'http://127.0.0.1:{address[1]}'\n"
            "opener = web.build_opener(web.ProxyHandler({}))\n"
            "for _ in range(1200):\n"
            "    try: opener.open(base + '/ready'); break\n"
            "    except OSError: time.sleep(0.05)\n"
            f"body = json.dumps({{'input': {{'type': 'text', 'text': {TEXTS!r}}}}}).encode()\n"
            "ask = web.Request(base + '/embeddings', body, {'content-type': 'application/json'})\n"
            "print(opener.open(ask).read().decode())\n"
        )
        inside = ["nsenter", "--net", "--target", str(process.pid)]
        inside += ["--user", "--preserve-credentials"] if os.geteuid() else []
        done = subprocess.run(
            [*inside, sys.executable, "-c", ask],
            capture_output=True, text=True, check=True, timeout=PATIENCE,
        )  # fmt: skip
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        log += process.communicate(timeout=PATIENCE)[0]
    assert "OUTBOUND" not in log
    assert process.returncode == 0, log
    assert np.allclose(json.loads(done.stdout)["embedding"], expected, atol=1e-6)


@pytest.mark.parametrize("precision", ["auto", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_conversion_from_a_folder_reaches_for_no_network(
    precision: str, checkpoint: Path, tmp_path: Path
) -> None:
    """int8 is quantised by nncf, whose telemetry is off."""
    if precision == "int8":
        pytest.importorskip("nncf", reason="nncf is not installed (extra quantize)")
    environ = {"EMBEDDING_OV_MODELS_DIR": str(tmp_path / "models")}
    done = subprocess.run(
        without_network("convert", str(checkpoint)),
        env={**os.environ, **environ, "EMBEDDING_PRECISION": precision},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert CONVERTED.search(done.stderr)
    assert "OUTBOUND" not in done.stderr


def test_the_watch_for_outbound_attempts_sees_one(tmp_path: Path) -> None:
    """Without this, the two tests above could not fail."""
    environ = {"EMBEDDING_OV_MODELS_DIR": str(tmp_path), "HF_ENDPOINT": "http://192.0.2.1"}
    done = subprocess.run(
        without_network("convert", ROW),
        env={**os.environ, **environ, "HF_HOME": str(tmp_path), "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert "OUTBOUND socket.connect" in done.stderr
