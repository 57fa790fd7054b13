"""The service's handle on a decoder process: starts it, talks to it, kills it."""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Literal

from multimodal_embedding_serving.media.channel import Channel
from multimodal_embedding_serving.media.isolation import Isolation

Kind = Literal["video", "image"]
STATEMENT_SECONDS = 60.0
"""A process starts in half a second; on a machine that has much to do, in several."""
BOOTSTRAP = """
import json, os, sys
os.putenv("OPENBLAS_NUM_THREADS", "1")  # numpy's: decoding needs no BLAS threads, nor their memory
sys.path[:] = json.loads(sys.argv[1])
from multimodal_embedding_serving.media.decoder_process import main
main(sys.argv[2], *map(int, sys.argv[3:]))
"""


class Decoder:
    """One process. It ends with the thread that started it, which must outlive the service."""

    def __init__(self, kind: Kind, memory: int) -> None:
        """`memory`: bytes of address space beyond what a newly started process has."""
        ours, theirs = socket.socketpair()
        with theirs:
            root = str(Path(__file__).parents[2])
            path = json.dumps([*filter(None, sys.path), root])
            numbers = map(str, (os.getpid(), theirs.fileno(), memory))
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and code
                [sys.executable, "-I", "-S", "-c", BOOTSTRAP, path, kind, *numbers],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # its standard error is the service's
                pass_fds=[theirs.fileno()],
                process_group=0,  # Ctrl-C reaches only the service
            )
        self.channel = Channel(ours)
        self.pid = self._process.pid
        self.free = True
        """Ready for the next input."""
        self.pixels: mmap.mmap | None = None
        """Memory that it shares with the service for an image."""

    def isolation(self) -> Isolation:
        """What the process is kept from. Raises ConnectionError or TimeoutError."""
        self.channel.send({"isolation": True}, seconds=STATEMENT_SECONDS)
        answer = self.channel.receive(STATEMENT_SECONDS)
        return Isolation(
            int(answer["landlock"]), answer["seccomp"] is True, tuple(map(str, answer["possible"]))
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """May be called from any thread."""
        self._process.kill()

    def close(self) -> None:
        self.kill()
        self._process.wait()
        self.channel.close()
        self.pixels = None
