"""A process that decodes videos, seen from the service: started, spoken to, killed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from multimodal_embedding_serving.media.channel import Channel

START = """
import json, os, sys
os.putenv("OPENBLAS_NUM_THREADS", "1")  # numpy's: threads and memory that decoding does not use
sys.path[:] = json.loads(sys.argv[1])
from multimodal_embedding_serving.media.decoder_process import main
main(*map(int, sys.argv[2:]))
"""


class Decoder:
    """One process. It ends with the thread that made it, which must live as long as the service."""

    def __init__(self, memory: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            root = str(Path(__file__).parents[2])
            path = json.dumps([*filter(None, sys.path), root])
            numbers = map(str, (os.getpid(), theirs.fileno(), memory))
            self._process = subprocess.Popen(  # noqa: S603  # our own interpreter and code
                [sys.executable, "-I", "-S", "-c", START, path, *numbers],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # its standard error goes where the service's goes
                pass_fds=[theirs.fileno()],
                process_group=0,  # a Ctrl-C is meant for the service
            )
        self.channel = Channel(ours)
        self.pid = self._process.pid
        self.free = True
        """It may take a video."""

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """From any thread."""
        self._process.kill()

    def close(self) -> None:
        self.kill()
        self._process.wait()
        self.channel.close()
