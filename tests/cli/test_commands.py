"""The commands in processes of their own: what they print, and with which status they end."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import httpx2
import numpy as np
import pytest
import typer

from multimodal_embedding_serving.bulk.items import ITEM_KINDS
from multimodal_embedding_serving.cli import app
from multimodal_embedding_serving.cli.embed import Kind
from tests.cli.running import mmes, mmes_in, on_terminal
from tests.serving import PATIENCE, Running, serving

COMMAND = [sys.executable, "-m", "multimodal_embedding_serving"]
COMMANDS = vars(typer.main.get_command(app))["commands"]


def start(*arguments: str) -> subprocess.Popen[str]:
    """With the default handler of Ctrl-C, which a shell disables for tests in the background."""
    pipe = subprocess.PIPE
    reset = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(
        [*COMMAND, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=reset
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_and_says_what_it_does(name: str) -> None:
    assert "--json" in {option for each in COMMANDS[name].params for option in each.opts}
    assert all(each.help for each in COMMANDS[name].params)
    assert COMMANDS[name].help


def complete(**environ: str) -> str:
    """What the program answers to a shell that completes it by its name."""
    code = "import sys; sys.argv = ['mmes']; from multimodal_embedding_serving.cli import main"
    command = [sys.executable, "-c", f"{code}; main()"]
    return subprocess.run(command, env=environ, capture_output=True, text=True).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_there_is_a_script_for_each_shell(shell: str) -> None:
    assert f"complete_{shell}" in complete(_MMES_COMPLETE=f"source_{shell}")


def test_shells_complete_the_commands() -> None:
    words = {"COMP_WORDS": "mmes se", "COMP_CWORD": "1"}
    answer = complete(_MMES_COMPLETE="complete_bash", **words)
    assert sorted(answer.split()) == ["search", "serve"]


def test_inputs_that_fail_are_named_and_the_others_embedded(samples: Path) -> None:
    photo = str(samples / "cat.jpg")
    done = mmes("embed", "a cat", "nothing.jpg", photo, "--text", "dog.jpg")
    assert done.returncode == 4
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["path"], row["kind"]) for row in rows] == [
        ("a cat", "text"),
        (photo, "image"),
        ("dog.jpg", "text"),
    ]
    assert all(np.isclose(np.linalg.norm(row["vector"]), 1, atol=1e-3) for row in rows)
    assert done.stderr == (
        "mmes: nothing.jpg: no such file or folder (to embed it as text, use --text)\n"
    )
    assert mmes("embed", "nothing.jpg").returncode == 1


@pytest.mark.parametrize(
    "arguments",
    [("photoz", "--out", "v.npy"), ("photoz", "--kind", "image"), ("*.xyz", "--out", "v.npy")],
)
def test_what_must_exist_ends_the_command_and_nothing_is_written(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = mmes_in(tmp_path, "embed", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(f"mmes: {arguments[0]}: no ")
    assert "--text" in done.stderr
    assert not list(tmp_path.iterdir())


def test_failures_are_grouped_by_their_reason_and_the_file_that_lists_them_is_named(
    tmp_path: Path, samples: Path
) -> None:
    (tmp_path / "cat.jpg").write_bytes((samples / "cat.jpg").read_bytes())
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"no image")
    (tmp_path / "list.csv").write_text("image\nx.jpg\ny.jpg\nz.jpg\n")
    out = tmp_path / "v.npy"
    done = mmes("embed", str(tmp_path), str(tmp_path / "list.csv"), "--out", str(out))
    assert done.returncode == 4
    last = done.stderr.splitlines()[-1]
    assert last.startswith("mmes: could not embed 5 inputs: 3 × no such file; 2 × ")
    assert last.endswith(f"; they are listed in {tmp_path}/v.errors.jsonl")
    report = json.loads(mmes("embed", str(tmp_path), "--out", str(out), "--json").stdout)
    assert report["errors_file"] == str(tmp_path / "v.errors.jsonl")
    assert list(report["reasons"].values()) == [2]
    done = mmes_in(tmp_path, "embed", "a.jpg", "b.jpg")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("mmes: could not embed 2 inputs: ")


def test_a_terminal_sees_the_first_numbers_of_a_vector(samples: Path) -> None:
    lines = on_terminal(
        "embed", "a cat", str(samples / "cat.jpg"), "--text", "x " * 99
    ).splitlines()
    start = r"  384 numbers \[-?\d\.\d{4}, -?\d\.\d{4}, -?\d\.\d{4}, …\]"
    assert re.fullmatch(rf"a cat  text{start}", lines[0])
    assert re.fullmatch(rf"\S*cat\.jpg  image{start}", lines[1])
    assert re.fullmatch(rf"(x )+…  text{start}", lines[2])
    whole = json.loads(on_terminal("embed", "a cat", "--json"))
    assert len(whole["vector"]) == 384


def test_a_bulk_job_by_a_server_reports_what_it_did(
    server: Running, samples: Path, tmp_path: Path
) -> None:
    out = tmp_path / "vectors.jsonl"
    command = ("embed", str(samples), "--out", str(out), "--kind", "image", "--server", server.url)
    report = json.loads(mmes(*command, "--json").stdout)
    assert report["out"] == str(out)
    assert (report["embedded"], report["unchanged"], report["rows"]) == (6, 0, 6)
    again = mmes(*command)
    assert (
        again.stdout == f"{out}: 6 vectors; 0 inputs embedded, 6 unchanged, 0 removed, 0 failed\n"
    )
    assert len(out.read_text().splitlines()) == 6


def test_vectors_come_as_they_are_asked_for_and_an_interrupt_ends_it() -> None:
    process = start("embed", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("a cat\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["path"] == "a cat"
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def test_a_reader_that_goes_away_ends_it_without_a_word() -> None:
    process = start("embed", "-")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("a cat\n" * 200)
    process.stdin.close()
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(PATIENCE) == 1
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.slow
def test_a_conversion_is_described_in_json(tmp_path: Path) -> None:
    place = {"EMBEDDING_OV_MODELS_DIR": str(tmp_path)}
    facts = json.loads(mmes("convert", "Builtin/mini", "--json", **place).stdout)
    assert facts["model"] == "Builtin/mini"
    assert facts["fingerprint"]
    configs = json.loads(mmes("tune", "--seconds", "30", "--json", **place).stdout)
    assert configs["text"]["rate"] > 0


def test_a_server_logs_lines_of_json() -> None:
    with serving([*COMMAND, "serve", "--port", "0", "--json"]) as running:
        running.stop()
        lines = [json.loads(line) for line in running.log]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert any("running on" in line["message"] for line in lines)


@pytest.mark.parametrize("root_path", ["/mm", "/mm/"])
def test_a_root_path_is_that_with_or_without_its_last_slash(root_path: str) -> None:
    environ = {"EMBEDDING_API_KEYS": "k"}
    command = [*COMMAND, "serve", "--port", "0", "--root-path", root_path]
    with serving(command, environ=environ) as running:
        assert httpx2.get(f"{running.url}/health").status_code == 200
        assert "error" in httpx2.get(f"{running.url}/v1/models").json()
        headers = {"authorization": "Bearer k"}
        document = httpx2.get(f"{running.url}/openapi.json", headers=headers).json()
    assert document["servers"] == [{"url": "/mm"}]


def test_a_root_path_without_its_first_slash_is_refused() -> None:
    done = mmes("serve", "--root-path", "mm")
    assert done.returncode == 2
    assert "must begin with a slash" in done.stderr


def test_an_output_folder_that_is_not_there_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = mmes("embed", "--text", "a cat", "--out", str(tmp_path / "file" / "vectors.npy"))
    assert done.returncode == 1
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_kinds_of_the_command_line_are_those_of_bulk_work() -> None:
    assert tuple(Kind) == ITEM_KINDS
