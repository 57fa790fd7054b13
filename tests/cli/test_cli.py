"""The command line, as a user types it."""

from __future__ import annotations

import json
import socket
from importlib.metadata import version

import pytest

from multimodal_embedding_serving.catalog import MODELS
from tests.cli.running import mmes, on_terminal


def listed_ids(output: str) -> list[str]:
    head, *lines = output.splitlines()
    assert head.split()[0] == "model"
    return [line.split()[0] for line in lines]


@pytest.mark.parametrize("columns", ["200", "80", "30"])
def test_models_lists_the_catalog_with_full_ids_into_a_pipe(columns: str) -> None:
    done = mmes("models", COLUMNS=columns)
    assert done.returncode == 0
    assert listed_ids(done.stdout) == [spec.id for spec in MODELS]
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_models_cuts_no_id_on_a_narrow_terminal() -> None:
    output = on_terminal("models", COLUMNS="30")
    assert listed_ids(output) == [spec.id for spec in MODELS]


def test_the_version_is_that_of_the_package() -> None:
    done = mmes("--version")
    assert done.returncode == 0
    assert done.stdout == f"mmes {version('multimodal-embedding-serving')}\n"


def test_models_can_be_read_by_a_program() -> None:
    models = json.loads(mmes("models", "--json").stdout)
    assert [each["id"] for each in models] == [spec.id for spec in MODELS]
    assert [each["id"] for each in models if each["default"]] == ["Builtin/mini"]


def test_a_setting_that_is_not_allowed_is_a_message_and_status_1() -> None:
    done = mmes("serve", EMBEDDING_PRECISION="fp8")
    assert done.returncode == 1
    assert done.stderr.startswith("mmes: EMBEDDING_PRECISION='fp8' is not allowed; allowed: ")
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_status_2() -> None:
    assert mmes("serve", "--port", "99999").returncode == 2
    assert mmes("nonsense").returncode == 2


def test_a_port_that_is_taken_is_status_1_and_no_abort() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = mmes("serve", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert "address already in use" in done.stderr


def test_a_model_that_nobody_knows_is_a_message_and_status_1() -> None:
    done = mmes("embed", "a cat", "--model", "no-such-model")
    assert done.returncode == 1
    assert "no-such-model" in done.stderr
    assert "Traceback" not in done.stderr
