"""The command line in a process of its own, into pipes or on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import multimodal_embedding_serving

COMMAND = [sys.executable, "-m", "multimodal_embedding_serving"]
SOURCES = str(Path(multimodal_embedding_serving.__file__).parent.parent)
"""The tree that is tested, which need not be the one that is installed."""


def clean(**environ: str) -> dict[str, str]:
    """An environment without the settings of the machine's user."""
    return {"PATH": "/usr/bin:/bin", "COLUMNS": "200", "PYTHONPATH": SOURCES, **environ}


def mmes(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return mmes_in(Path.cwd(), *arguments, **environ)


def mmes_in(cwd: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        encoding="utf-8",
        env=clean(**environ),
        cwd=cwd,
        check=False,
    )


def on_terminal(*arguments: str, **environ: str) -> str:
    """What a command that succeeds prints on a terminal to its standard output."""
    terminal, screen = pty.openpty()
    with os.fdopen(screen, "w") as stdout:
        process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=clean(TERM="xterm", **environ),
        )
    output = b""
    try:
        while chunk := os.read(terminal, 1 << 16):
            output += chunk
    except OSError:  # Linux reports the end of a terminal as an error
        pass
    os.close(terminal)
    assert process.stderr is not None
    with process.stderr as stderr:
        errors = stderr.read().decode()
    assert process.wait() == 0, errors
    return output.decode().replace("\r\n", "\n")
