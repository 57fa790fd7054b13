"""A conversion that is watched, killed, raced for, out of room, or done already: real processes."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from multimodal_embedding_serving.bundles.bundle import TEMPORARY
from tests.e2e.conversion import (
    CONVERTED,
    LAION,
    MMES,
    ROW,
    SERVE,
    Place,
    conversions,
    embed_texts,
    length_of_conversion,
    several,
    survive_kills,
)
from tests.hub_standin import HubStandIn
from tests.serving import PATIENCE, Running, serving
from tests.small_clip import repository, write_clip


@pytest.fixture
def place(hub: HubStandIn, tmp_path: Path) -> Place:
    hub.add(LAION, repository(write_clip(tmp_path / "checkpoint")))
    return Place(hub, tmp_path)


def run(place: Place, *command: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **place.environ}
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE
    )


@pytest.mark.parametrize("moments", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_conversion_may_be_killed_at_any_moment(place: Place, moments: int) -> None:
    length = length_of_conversion(place)
    survive_kills(place, several(place, moments), length)


def test_two_servers_on_one_empty_folder_both_come_up_and_one_converts(place: Place) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:

        def start(_: int) -> Running:
            return stack.enter_context(serving(SERVE, environ=place.environ))

        first, second = pool.map(start, range(2))
        assert conversions(first, second) == 1
        assert np.array_equal(embed_texts(first), embed_texts(second))


def test_a_second_start_converts_nothing_and_asks_nobody(place: Place) -> None:
    with serving(SERVE, environ=place.environ) as first:
        assert conversions(first) == 1
        expected = embed_texts(first)
    asked = len(place.hub.requests)
    assert asked > 0
    with serving(SERVE, environ=place.environ) as second:
        assert conversions(second) == 0
        assert np.array_equal(embed_texts(second), expected)
    assert len(place.hub.requests) == asked


def test_offline_what_was_downloaded_is_converted_and_nothing_else(place: Place) -> None:
    offline = Place(place.hub, place.folder, {"HF_HUB_OFFLINE": "1"})
    refused = run(offline, *MMES, "convert", ROW)
    assert refused.returncode == 1
    assert f"{LAION}: not in the cache, and the hub's client is offline" in refused.stderr
    assert not place.hub.requests
    online = run(place, *MMES, "convert", ROW)
    shutil.rmtree(place.models)
    asked = len(place.hub.requests)
    again = run(offline, *MMES, "convert", ROW)
    assert CONVERTED.search(again.stderr), again.stderr
    assert [line for line in again.stdout.splitlines() if "created" not in line] == [
        line for line in online.stdout.splitlines() if "created" not in line
    ]
    assert len(place.hub.requests) == asked


def test_a_terminal_shows_a_bar_for_each_stage(place: Place) -> None:
    ours, terminal = pty.openpty()
    environ = {**os.environ, **place.environ, "TERM": "xterm", "COLUMNS": "400"}
    process = subprocess.Popen(
        [*MMES, "convert", ROW], env=environ, stdout=subprocess.DEVNULL, stderr=terminal
    )
    os.close(terminal)
    shown = b""
    try:
        while part := os.read(ours, 1 << 16):
            shown += part
    except OSError:  # Linux's way to say that the other side is closed
        pass
    os.close(ours)
    assert process.wait(PATIENCE) == 0
    last = shown.decode().rpartition("downloading the checkpoint")[2]
    for stage in ("building the graphs", "checking accuracy"):
        assert stage in last
    assert last.count("100%") >= 3
    assert CONVERTED.search(shown.decode())


def test_the_listing_shows_accuracy_and_prunes_what_a_kill_has_left(place: Place) -> None:
    with place.reopen() as engine:
        parity = engine.info.parity
    assert parity is not None
    left = place.models / "CLIP" / "clip-vit-b-32" / f"{TEMPORARY}f16-1"
    left.mkdir()
    listed = run(place, *MMES, "models", "--long", "--prune", "--json")
    assert f"removed {left}" in listed.stderr
    assert not left.exists()
    (facts,) = json.loads(listed.stdout)
    assert facts["model"] == ROW
    assert facts["parity"] == {name: each["minimum"] for name, each in parity.items()}
    assert min(facts["parity"].values()) >= 0.9999


ON_A_SMALL_DISK = """
mount -t tmpfs -o size=$1 tmpfs "$EMBEDDING_OV_MODELS_DIR" || exit 99
shift
"$@"
status=$?
find "$EMBEDDING_OV_MODELS_DIR" -type f ! -name "*.lock"
exit $status
"""
"""Runs a command with a models folder of so many bytes, and lists the files that it leaves."""


@pytest.mark.parametrize(
    ("spare", "says"),
    [
        (
            -200_000,
            "the bundle needs 1.3 MB, but the disk of the models folder has only 1.2 MB free",
        ),
        (50_000, "the disk of the models folder has 0.0 MB free"),
    ],
    ids=["before", "while"],
)
def test_a_full_disk_is_told_and_leaves_nothing(place: Place, spare: int, says: str) -> None:
    """What is needed is foreseen, but others may fill the disk meanwhile."""
    needed = (place.folder / "checkpoint" / "model.safetensors").stat().st_size // 2
    place.models.mkdir()
    apart = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    shell = ["sh", "-c", ON_A_SMALL_DISK, "sh", str(needed + spare)]
    done = run(place, *apart, *shell, *MMES, "convert", str(place.folder / "checkpoint"))
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert says in done.stderr
    assert "Traceback" not in done.stderr
