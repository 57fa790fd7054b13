"""What is wrong with the settings is found before the server listens, and is the last line."""

from __future__ import annotations

import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.running import COMMAND, clean

LISTENING = "Uvicorn running on"
CLIP = "CLIP/clip-vit-b-32"


def serve(models: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = clean(**{"EMBEDDING_OV_MODELS_DIR": str(models), **environ})
    port = [] if "--port" in arguments else ["--port", "0"]
    command = [*COMMAND, "serve", *port, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=False)


def check_refusal(done: subprocess.CompletedProcess[str], *words: str) -> None:
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mmes: "), done.stderr
    assert all(word in last for word in words), last
    assert done.returncode == 1
    assert LISTENING not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"EMBEDDING_PRECISION": "fp8"}, ["EMBEDDING_PRECISION='fp8'", "bf16"]),
        (
            {"EMBEDDING_MEDIA_ALLOWED_HOSTS": "http://minio:9000"},
            ["EMBEDDING_MEDIA_ALLOWED_HOSTS", "http://minio:9000"],
        ),
        ({"EMBEDDING_MEDIA_PROXY": "socks5://proxy:1"}, ["EMBEDDING_MEDIA_PROXY", "http://"]),
        ({"EMBEDDING_MODEL_NAME": "no-such-model"}, ["no-such-model", "hf:org/name"]),
        ({"EMBEDDING_MODEL_NAME": "/no/such/folder"}, ["/no/such/folder"]),
        ({"EMBEDDING_MODEL_NAME": "hf:org"}, ["org"]),
        ({"EMBEDDING_DEVICE": "GPU.77"}, ["EMBEDDING_DEVICE='GPU.77'", "available devices: CPU"]),
        ({"EMBEDDING_USE_OV": "false", "EMBEDDING_DEVICE": "cuda:77"}, ["torch"]),
        (
            {"EMBEDDING_MODEL_NAME": CLIP, "EMBEDDING_OV_MODELS_DIR": "/proc/models"},
            ["/proc/models", "EMBEDDING_OV_MODELS_DIR"],
        ),
        ({"EMBEDDING_OV_CACHE_DIR": "/proc/cache"}, ["/proc/cache", "EMBEDDING_OV_CACHE_DIR"]),
        ({"EMBEDDING_HOST": "192.0.2.1"}, ["cannot listen on 192.0.2.1:0", "address"]),
        ({"EMBEDDING_HOST": "no such host"}, ["cannot listen on no such host:0"]),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_a_wrong_setting_ends_the_start(
    tmp_path: Path, environ: dict[str, str], words: list[str]
) -> None:
    check_refusal(serve(tmp_path, **environ), *words)


@pytest.mark.parametrize(
    ("module", "environ"),
    [
        ("nncf", {"EMBEDDING_MODEL_NAME": CLIP, "EMBEDDING_PRECISION": "int8"}),
        ("tiktoken", {"EMBEDDING_TOKEN_IDS": "cl100k"}),
    ],
)
def test_a_missing_extra_is_named(tmp_path: Path, module: str, environ: dict[str, str]) -> None:
    if find_spec(module) is None:
        check_refusal(serve(tmp_path, **environ), "pip install", "multimodal-embedding-serving[")
        return
    hide = tmp_path / "sitecustomize.py"
    hide.write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        f"util.find_spec = lambda name, *rest: None if name == {module!r} else find(name, *rest)\n"
    )
    done = serve(tmp_path, PYTHONPATH=f"{tmp_path}:{':'.join(sys.path)}", **environ)
    check_refusal(done, "pip install", "multimodal-embedding-serving[")


def test_a_port_in_use_is_the_last_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve(tmp_path, "--port", str(port))
    check_refusal(done, f"cannot listen on 127.0.0.1:{port}", "in use")


def test_a_certificate_that_is_missing_is_the_last_line(tmp_path: Path) -> None:
    done = serve(tmp_path, "--certificate", str(tmp_path / "none.pem"))
    check_refusal(done, f"--certificate {tmp_path}/none.pem", "no such file")


def test_a_folder_without_a_checkpoint_ends_the_server_with_its_reason(tmp_path: Path) -> None:
    """What only the conversion can know comes after the port is open."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    done = serve(tmp_path / "models", EMBEDDING_MODEL_NAME=str(checkpoint))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("mmes: the folder 'checkpoint' has no")
    assert "Traceback" not in done.stderr
