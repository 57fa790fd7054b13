"""`source setup.sh`: what it fills in, what it rejects, what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from multimodal_embedding_serving.catalog import MODELS
from multimodal_embedding_serving.errors import SettingsError
from multimodal_embedding_serving.settings import Settings

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "setup.sh"
SHELLS = ["bash", pytest.param("zsh", marks=pytest.mark.skipif(
    shutil.which("zsh") is None, reason="zsh is not installed"))]  # fmt: skip
NO_ENGINE = {"PATH": "/usr/bin:/bin"}


def source(
    shell: str = "bash", path: str | None = None, **exports: str
) -> tuple[int, dict[str, str], str]:
    """(status, the environment afterwards, the output) of sourcing the file."""
    environ = {"HOME": "/nowhere", "PATH": path or "/usr/bin:/bin", **exports}
    # Not `status`: zsh has a read-only variable of that name.
    command = f". {SCRIPT}; code=$?; echo ----; env; set | grep -c ^_mmes; exit $code"
    done = subprocess.run([shell, "-uc", command], env=environ, capture_output=True, text=True)
    output, _, after = done.stdout.partition("----\n")
    variables = dict(line.split("=", 1) for line in after.splitlines() if "=" in line)
    assert after.rstrip().endswith("\n0"), "variables or functions were left behind"
    return done.returncode, variables, output + done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_everything_has_a_default_that_the_service_takes(shell: str) -> None:
    status, variables, output = source(shell)
    assert status == 0, output
    settings = Settings.from_env(variables)
    assert settings.model == "Builtin/mini"
    assert (settings.device, settings.use_openvino, settings.image_batch) == ("CPU", True, 16)
    assert (settings.num_frames, settings.clip_duration, settings.port) == (64, -1, 9777)
    for line in ("EMBEDDING_MODEL_NAME=Builtin/mini", "EMBEDDING_DEVICE=CPU"):
        assert line in output.splitlines()


@pytest.mark.parametrize(("device", "batch"), [("GPU", 32), ("GPU.1", 32), ("NPU", 16)])
def test_accelerators_get_their_batch_and_hint(device: str, batch: int) -> None:
    status, variables, _ = source(EMBEDDING_DEVICE=device)
    settings = Settings.from_env(variables)
    assert status == 0
    assert (settings.image_batch, settings.performance_mode) == (batch, "THROUGHPUT")


def test_what_is_set_stays() -> None:
    _, variables, _ = source(EMBEDDING_DEVICE="GPU", INFER_BATCH_SIZE="3", DEFAULT_NUM_FRAMES="9")
    assert (variables["INFER_BATCH_SIZE"], variables["DEFAULT_NUM_FRAMES"]) == ("3", "9")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMBEDDING_DEVICE", "TPU"),
        ("EMBEDDING_USE_OV", "maybe"),
        ("EMBEDDING_SERVER_PORT", "70000"),
        ("INFER_BATCH_SIZE", "0"),
        ("OV_PERFORMANCE_MODE", "FAST"),
        ("EMBEDDING_PRECISION", "f8"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_is_exported(name: str, value: str) -> None:
    status, variables, output = source(**{name: value})
    assert status == 1
    assert f"{name}='{value}' is not allowed; allowed: " in output
    assert "APP_NAME" not in variables


@pytest.mark.parametrize("name", ["hf:org/name", "./folder", "/a/folder", "CLIP-VIT-B-32", "blip2"])
def test_every_kind_of_name_is_taken(name: str) -> None:
    assert source(EMBEDDING_MODEL_NAME=name)[0] == 0


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("name", ["clip-vit-b-33", ".*", "Other/model"])
def test_an_unknown_model_is_a_warning(shell: str, name: str) -> None:
    """As in Intel's script: a newer image may have it."""
    status, variables, output = source(shell, EMBEDDING_MODEL_NAME=name)
    assert status == 0
    assert variables["EMBEDDING_MODEL_NAME"] == name
    assert f"warning: EMBEDDING_MODEL_NAME='{name}' is not in the catalog" in output
    assert "CLIP/clip-vit-b-32" in output


@pytest.mark.parametrize("shell", SHELLS)
def test_the_devices_and_groups_of_this_machine_are_exported(shell: str) -> None:
    status, variables, output = source(shell, no_proxy="localhost")
    assert status == 0, output
    there = Path("/dev/dri").is_dir() and any(Path("/dev/dri").iterdir())
    assert variables["DRI_MOUNT_PATH"] == ("/dev/dri" if there else "/dev/null")
    npu = Path("/dev/accel/accel0")
    assert variables["ACCEL_MOUNT_PATH"] == (str(npu) if npu.exists() else "/dev/null")
    assert variables["VIDEO_GROUP_ID"].isdigit()
    assert variables["RENDER_GROUP_ID"].isdigit()
    assert variables["VIDEO_GROUP_ID"] != variables["RENDER_GROUP_ID"]
    assert (variables["USER_ID"], variables["USER_GROUP_ID"]) == (
        str(os.getuid()),
        str(os.getgid()),
    )
    assert variables["no_proxy_env"] == f"localhost,{variables['HOST_IP']}"
    if not there:
        assert "no device in /dev/dri" in source(shell, EMBEDDING_DEVICE="GPU.1")[2]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_strict_shell_survives_it(shell: str) -> None:
    """`set -euo pipefail`, as scripts have it: a missing group, device or engine is no failure."""
    command = f"set -euo pipefail; . {SCRIPT} >/dev/null; echo $RENDER_GROUP_ID"
    environ = {"HOME": "/nowhere", "PATH": "/usr/bin:/bin"}
    done = subprocess.run([shell, "-c", command], env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip().isdigit()) == (0, True), done.stderr


def test_devices_groups_and_the_image_can_be_set() -> None:
    exports = {"DRI_MOUNT_PATH": "/dev/dri/by", "VIDEO_GROUP_ID": "7", "RENDER_GROUP_ID": "8"}
    _, variables, _ = source(**exports, REGISTRY_URL="example.com/", PROJECT_NAME="team")
    assert exports.items() <= variables.items()
    assert (variables["REGISTRY"], variables["TAG"]) == ("example.com/team/", "latest")
    assert source(REGISTRY="example.com/")[1]["REGISTRY"] == "example.com/"


@pytest.mark.parametrize(
    ("name", "meant"),
    [("EMBEDDING_MODEL", "EMBEDDING_MODEL_NAME"), ("EMBEDDING_PORT", "EMBEDDING_SERVER_PORT")],
)
def test_a_name_that_almost_is_a_setting_is_warned_of(name: str, meant: str) -> None:
    status, _, output = source(**{name: "80"})
    assert status == 0
    assert f"{name} is not a setting and has no effect; did you mean {meant}?" in output


def test_it_knows_the_models_of_the_catalog() -> None:
    match = re.search(r'_mmes_models="\n(.*?)"', SCRIPT.read_text(), re.DOTALL)
    assert match
    names = set(match[1].split())
    expected = {spec.id for spec in MODELS}
    expected |= {f"{spec.family}/{alias}" for spec in MODELS for alias in spec.aliases}
    assert names == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EMBEDDING_DEVICE", "auto:-npu,cpu"),
        ("EMBEDDING_DEVICE", "BATCH:GPU(4)"),
        ("EMBEDDING_DEVICE", "GPU:1"),
        ("EMBEDDING_DEVICE", "MULTI:"),
        ("EMBEDDING_USE_OV", "Off"),
        ("EMBEDDING_SERVER_PORT", "0"),
        ("EMBEDDING_SERVER_PORT", "65536"),
        ("EMBEDDING_SERVER_PORT", "1e3"),
        ("INFER_BATCH_SIZE", "1024"),
        ("INFER_BATCH_SIZE", "1025"),
        ("OV_PERFORMANCE_MODE", "latency"),
        ("EMBEDDING_PRECISION", "INT8-weights"),
    ],
)
def test_it_allows_what_the_service_allows(name: str, value: str) -> None:
    status, _, output = source(**{name: value})
    expectation = contextlib.nullcontext() if status == 0 else pytest.raises(SettingsError)
    with expectation as caught:
        Settings.from_env({name: value})
    assert caught is None or str(caught.value) in output


def test_the_volumes_are_made_where_an_engine_answers(tmp_path: Path) -> None:
    """A stand-in for docker that knows one volume and records its calls."""
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\n'
        'case "$*" in "volume inspect data-prep") exit 1;; esac\n'
    )
    docker.chmod(0o755)
    status, _, output = source(path=f"{tmp_path}:/usr/bin:/bin")
    assert status == 0, output
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "volume create data-prep" in calls
    assert "volume create ov-models" not in calls


def test_a_shell_that_stops_at_errors_goes_on() -> None:
    environ = {"PATH": os.environ["PATH"]}
    command = f"set -eu; . {SCRIPT} >/dev/null; echo reached"
    done = subprocess.run(["bash", "-c", command], env=environ, capture_output=True, text=True)
    assert done.stdout == "reached\n", done.stderr
