"""The shells themselves complete commands, models and files."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from multimodal_embedding_serving.catalog import MODELS
from multimodal_embedding_serving.cli.completion import complete_model
from tests.cli.running import clean
from tests.serving import PATIENCE

CODE = "import sys; sys.argv[0] = 'mmes'; from multimodal_embedding_serving.cli import main; main()"
SHELLS = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}


def test_models_are_completed_by_id_and_by_name_and_paths_are_left_to_the_shell() -> None:
    assert complete_model("") == [spec.id for spec in MODELS]
    assert complete_model("clip/CLIP-vit-h") == ["CLIP/clip-vit-h-14"]
    assert complete_model("qwen3-embedding-8") == ["QwenText/qwen3-embedding-8b"]
    assert complete_model("./photos") == complete_model("~") == complete_model("/") == []


class Terminal:
    """A shell on a terminal; `type` writes keys, `wait_for` reads until a text appears."""

    def __init__(self, command: list[str], environ: dict[str, str], folder: Path) -> None:
        self._terminal, screen = pty.openpty()
        self._process = subprocess.Popen(
            command, stdin=screen, stdout=screen, stderr=screen, env=environ, cwd=folder,
            start_new_session=True,
        )  # fmt: skip
        os.close(screen)
        self._output = ""

    def type(self, keys: str) -> None:
        self._output = ""
        os.write(self._terminal, keys.encode())

    def wait_for(self, text: str) -> None:
        until = time.monotonic() + PATIENCE
        while text not in self._output:
            ready, _, _ = select.select([self._terminal], [], [], max(0, until - time.monotonic()))
            assert ready, f"no {text!r} in {self._output!r}"
            self._output += os.read(self._terminal, 1 << 16).decode(errors="replace")

    def close(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)
        os.close(self._terminal)


@pytest.mark.parametrize("name", SHELLS)
def test_a_shell_completes_commands_models_and_files(name: str, tmp_path: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    program = tmp_path / "bin" / "mmes"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{CODE}" "$@"\n')
    program.chmod(0o755)
    (tmp_path / "holiday.jpg").touch()
    environ = clean(
        PATH=f"{program.parent}:/usr/bin:/bin", TERM="dumb", HOME=str(tmp_path), PS1="$ "
    )
    terminal = Terminal(SHELLS[name], environ, tmp_path)
    try:
        start = "autoload -U compinit; compinit -u -D; " if name == "zsh" else ""
        terminal.type(f'{start}eval "$(_MMES_COMPLETE=source_{name} mmes)"; echo is-$((40+2))\n')
        terminal.wait_for("is-42")
        terminal.type("mmes sea\t")
        terminal.wait_for("search")
        terminal.type("\x15mmes models pull CLIP/clip-vit-h\t")
        terminal.wait_for("clip-vit-h-14")
        terminal.type("\x15mmes embed holi\t")
        terminal.wait_for("holiday.jpg")
    finally:
        terminal.close()
