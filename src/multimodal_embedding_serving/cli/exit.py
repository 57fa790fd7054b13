"""The end of the process."""

from __future__ import annotations

import os
import sys
import threading
from typing import NoReturn

NATIVE_THREADS = ("opening", "connecting to Ray")
"""Threads that may be inside another library's native code, which can't be interrupted."""


def leave(status: int) -> NoReturn:
    """End the process, even while a thread is still loading a model or looking for a cluster.

    An ordinary exit would unload the library while the thread runs in it, and the process would
    abort, or wait until the call returns.
    """
    if any(thread.name in NATIVE_THREADS for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
