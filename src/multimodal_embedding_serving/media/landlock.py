"""Takes the file system and the network from the calling thread by Landlock (Linux 5.13).

Everything that this kernel's version can restrict is restricted, without exceptions: files, TCP
(since version 4), abstract sockets and signals to other processes (6). Open descriptors stay
usable. https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import sys

CREATE_RULESET, RESTRICT_SELF = 444, 446
"""Numbers of the system calls, the same on every architecture."""
CREATE_RULESET_VERSION = 1

FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Version -> how many rights of the file system it has: execute is bit 0, ioctl of devices 15."""
NETWORK_VERSION, NETWORK_RIGHTS = 4, 0b11
"""bind and connect of TCP."""
SCOPE_VERSION, SCOPES = 6, 0b11
"""Connections to abstract sockets, and signals, beyond the restricted processes."""


class Ruleset(ctypes.Structure):
    """The kernel's `landlock_ruleset_attr`."""

    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scope", ctypes.c_uint64),
    )


def landlock_version() -> int:
    """The version of the kernel's interface; 0 where there is none, or it is switched off."""
    if sys.platform != "linux":
        return 0
    call = ctypes.CDLL(None, use_errno=True).syscall
    return max(0, int(call(CREATE_RULESET, None, ctypes.c_size_t(0), CREATE_RULESET_VERSION)))


def restrict_files() -> int:
    """Forbid the calling thread, and those that it starts, what this version of Landlock can.

    Needs PR_SET_NO_NEW_PRIVS. Returns the version; 0 if nothing is restricted.
    """
    version = landlock_version()
    if not version:
        return 0
    rights = FILE_RIGHTS[max(known for known in FILE_RIGHTS if known <= version)]
    rules = Ruleset(files=(1 << rights) - 1)
    size = Ruleset.network.offset
    if version >= NETWORK_VERSION:
        rules.network, size = NETWORK_RIGHTS, Ruleset.scope.offset
    if version >= SCOPE_VERSION:
        rules.scope, size = SCOPES, ctypes.sizeof(Ruleset)
    call = ctypes.CDLL(None, use_errno=True).syscall
    file = call(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if file < 0:
        return 0
    failed = call(RESTRICT_SELF, file, 0)
    os.close(file)
    return 0 if failed else version
