"""Takes files, the network and other processes from a decoder once its descriptors are open.

Two mechanisms of Linux do it, and each works without the other: Landlock (5.13) and a seccomp
filter (x86-64 and aarch64). Where the kernel, or the container's runtime, lacks one, decoding works
all the same; `mmes doctor` states what a decoder process is kept from on this machine.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from multimodal_embedding_serving.media.landlock import restrict_files
from multimodal_embedding_serving.media.seccomp import filter_calls

CAPABILITY_VERSION = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3, whose sets have 64 bits."""


@dataclass(frozen=True, slots=True)
class Isolation:
    """What a process is kept from, as the process itself found by trying."""

    landlock: int
    """The version in force; 0: none."""
    seccomp: bool
    possible: tuple[str, ...]
    """What it could do all the same, of ATTEMPTS."""


def isolate() -> Isolation:
    """Restrict this process, which must have one thread, for good. Needs PR_SET_NO_NEW_PRIVS."""
    version = restrict_files()
    _drop_capabilities()
    filtered = filter_calls()
    return Isolation(version, filtered, tuple(filter(_succeeds, ATTEMPTS)))


def _drop_capabilities() -> None:
    """Root in a container, or on a host, could undo limits on resources with them."""
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    libc.capset(header, (ctypes.c_uint32 * 6)())


def _open_file() -> None:
    os.close(os.open("/", os.O_RDONLY))


def _open_socket() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()


def _start_process() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def _map_code() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


ATTEMPTS: dict[str, Callable[[], None]] = {
    "open files": _open_file,
    "use the network": _open_socket,
    "start processes": _start_process,
    "load code": _map_code,
}
"""What a process may not do, and how it tries."""


def _succeeds(attempt: str) -> bool:
    try:
        ATTEMPTS[attempt]()
    except OSError:
        return False
    return True
