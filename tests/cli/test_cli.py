"""The command line, as a user types it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

from multimodal_embedding_serving.catalog import MODELS


def mmes(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "multimodal_embedding_serving", *arguments]
    clean = {"PATH": "/usr/bin:/bin", "COLUMNS": "200", **environ}
    return subprocess.run(command, capture_output=True, encoding="utf-8", env=clean, check=False)


def test_models_lists_the_catalog() -> None:
    shown = mmes("models")
    assert shown.returncode == 0
    for spec in MODELS:
        assert spec.id in shown.stdout


def test_models_can_be_read_by_a_program() -> None:
    listed = json.loads(mmes("models", "--json").stdout)
    assert [each["id"] for each in listed] == [spec.id for spec in MODELS]
    assert [each["id"] for each in listed if each["default"]] == ["Builtin/mini"]


def test_a_setting_that_is_not_allowed_is_a_message_and_status_2() -> None:
    refused = mmes("serve", EMBEDDING_PRECISION="fp8")
    assert refused.returncode == 2
    assert refused.stderr.startswith("mmes: EMBEDDING_PRECISION='fp8' is not allowed; allowed: ")
    assert "Traceback" not in refused.stderr


def test_wrong_usage_is_status_2() -> None:
    assert mmes("serve", "--port", "99999").returncode == 2
    assert mmes("nonsense").returncode == 2


def test_a_port_that_is_taken_is_status_1_and_no_abort() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = mmes("serve", "--port", str(taken.getsockname()[1]))
    assert refused.returncode == 1
    assert "address already in use" in refused.stderr


def test_a_model_that_nobody_knows_is_a_message_and_status_1() -> None:
    refused = mmes("embed", "a cat", "--model", "no-such-model")
    assert refused.returncode == 1
    assert "no-such-model" in refused.stderr
    assert "Traceback" not in refused.stderr
