"""Processes, by /proc: CPU seconds, memory, and the servers that are measured."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.places import CACHE
from benchmarks.systems import System

TICKS = os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")
TIMEOUT = 300.0
"""Seconds for a server to start (the first start converts the model), or for a response."""


def fields(stat: str) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the name before it may contain anything."""
    return stat.rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                parent = int(fields((folder / "stat").read_text())[1])
            except OSError:  # it has ended
                continue
            children.setdefault(parent, []).append(int(folder.name))
    processes = [root]
    for process in processes:
        processes += children.get(process, [])
    return processes


def cpu_seconds(root: int) -> float:
    """User and system time of a process and its descendants, including those that have ended."""
    total = 0
    for process in tree(root):
        try:
            stat = fields((PROC / str(process) / "stat").read_text())
        except OSError:
            continue
        total += sum(map(int, stat[11:15]))  # utime, stime, cutime, cstime
    return total / TICKS


def busy_seconds() -> float:
    """CPU seconds of the whole machine since it started."""
    times = (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _, _, irq, soft, steal = map(int, times)
    return (user + nice + system + irq + soft + steal) / TICKS


def peak_memory(root: int) -> int:
    """The sum of the peak resident memory of a process and its descendants, in bytes."""
    total = 0
    for process in tree(root):
        try:
            lines = (PROC / str(process) / "status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return total * 1024


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """A system that is starting or running."""

    system: System
    port: int
    process: subprocess.Popen[bytes]
    started: float
    """time.perf_counter() just before the process was created."""
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        if self.process.poll() is not None:
            lines = self.log.read_text("utf-8", "replace").splitlines()[-15:]
            raise ServerEnded(f"{self.system.name} exited:\n" + "\n".join(lines))


class ServerEnded(Exception):
    """A server has exited; the message is the end of its log."""


@contextmanager
def serving(system: System, model: Path) -> Iterator[Server]:
    """Start a system on a free port; stop it with all its descendants at the end."""
    log, port = CACHE / f"{system.name}.log", free_port()
    with log.open("wb") as file:
        started = time.perf_counter()
        process = subprocess.Popen(
            system.argv(model, port),
            env=system.environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Server(system, port, process, started, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
