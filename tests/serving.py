"""A server in a process of its own, started by the command that a user types."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue

import httpx2

PATIENCE = 120.0
"""Seconds until a test gives up waiting for a server; it takes one or two."""
ADDRESS = re.compile(r"running on (https?://[\d.]+:\d+)")


@dataclass
class Running:
    """A server that is ready to answer."""

    url: str
    process: subprocess.Popen[str]
    log: list[str] = field(default_factory=list)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextmanager
def serving(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
    wait: bool = True,
) -> Iterator[Running]:
    """Run `command` until it is ready to answer, or listens at least; it is stopped at the end.

    The address is the one that the server prints.
    """
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines: Queue[str] = Queue()
    log: list[str] = []
    reader = threading.Thread(target=_read, args=(process, lines, log), daemon=True)
    reader.start()
    try:
        running = Running(_address(lines, log), process, log)
        if wait:
            _wait_until_ready(running)
        yield running
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)  # make passes no signal on
            process.wait(PATIENCE)
        reader.join(PATIENCE)


def _read(process: subprocess.Popen[str], lines: Queue[str], log: list[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        log.append(line)
        lines.put(line)
    lines.put("")  # the end


def _address(lines: Queue[str], log: list[str]) -> str:
    """The address in the server's output; the output is the failure's message if there is none."""
    try:
        while line := lines.get(timeout=PATIENCE):
            if found := ADDRESS.search(line):
                return found[1]
    except Empty:
        pass
    raise AssertionError("the server named no address:\n" + "".join(log))


def _wait_until_ready(running: Running) -> None:
    """Ask /ready until it is 200; the server says by Retry-After that it may be asked again."""
    with httpx2.Client(base_url=running.url, timeout=PATIENCE, trust_env=False) as http:
        for _ in range(int(PATIENCE * 20)):
            try:
                if http.get("/ready").status_code == 200:
                    return
            except httpx2.TransportError:  # it has given up, or is about to: its log says why
                break
            threading.Event().wait(0.05)
    raise AssertionError("the server did not become ready:\n" + "".join(running.log))
