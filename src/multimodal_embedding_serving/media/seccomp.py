"""Leaves a process only the system calls that decoding needs, by a seccomp filter (Linux 3.17).

Memory, threads, the clock, and reading and writing what is open already: no files, no sockets, no
processes, no new code. A forbidden call returns EPERM; one that is newer than this list ENOSYS, as
on a kernel without it, so that the C library takes its older way. The filter is a program of the
classic BPF, https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

CALLS = {
    # files that are open
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "lseek": (8, 62), "close": (3, 57), "fstat": (5, 80), "newfstatat": (262, 79),
    "fcntl": (72, 25), "ioctl": (16, 29), "poll": (7, None), "ppoll": (271, 73),
    # the channel
    "sendto": (44, 206), "recvfrom": (45, 207), "recvmsg": (47, 212),
    # memory
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216),
    "madvise": (28, 233), "brk": (12, 214),
    # threads
    "clone": (56, 220), "futex": (202, 98), "set_robust_list": (273, 99), "rseq": (334, 293),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    "membarrier": (324, 283), "prctl": (157, 167), "exit": (60, 93), "exit_group": (231, 94),
    # signals to itself
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132), "tgkill": (234, 131), "restart_syscall": (219, 128),
    # time
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169),
    "time": (201, None), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    # itself and the machine
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getrusage": (98, 165),
    "prlimit64": (302, 261), "sysinfo": (99, 179), "getrandom": (318, 278),
}  # fmt: skip
"""Name -> its number on x86-64 and on aarch64 (None: the architecture has no such call)."""
SECCOMP = (317, 277)
"""The call that installs the filter."""
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7), "arm64": (1, 0xC00000B7)}
"""Machine -> the column of its numbers, and the kernel's AUDIT_ARCH."""
FIRST_SHARED = 424
"""From here on, numbers are the same on every architecture; CALLS has none of these calls."""

PROT_EXEC, AT_EMPTY_PATH, CLONE_THREAD, FIONBIO, PR_SET_NAME = 4, 0x1000, 0x10000, 0x5421, 15
FILE_COMMANDS = (1, 2, 3, 4, 1030)
"""fcntl: get and set the flags of a descriptor and of its file, and duplicate it."""

ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
LOAD, JUMP_IF_EQUAL, JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER_OFFSET, ARCH_OFFSET, ARGUMENTS_OFFSET = 0, 4, 16
"""Places in the kernel's `seccomp_data`."""
JUMP_IF_AT_LEAST = 0x35
SET_MODE_FILTER, ALL_THREADS = 1, 1

Instruction = tuple[int, int, int, int]
"""Operation, instructions to skip if true and if false, operand."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What one argument must be: one of `values`, or with some or none of `bits`."""

    argument: int
    values: tuple[int, ...] = ()
    some_of: int = 0
    none_of: int = 0

    def instructions(self) -> Iterator[Instruction]:
        """Fall through if it holds, else return EPERM. Compares the lower 32 bits of the argument,
        and the upper ones with 0 if it is a pointer or a process, which `values` are for."""
        place, refuse = ARGUMENTS_OFFSET + 8 * self.argument, (RETURN, 0, 0, ERRNO | errno.EPERM)
        if self.values:
            yield LOAD, 0, 0, place + 4
            yield JUMP_IF_EQUAL, 1, 0, 0
            yield refuse
        yield LOAD, 0, 0, place
        for left, value in zip(range(len(self.values), 0, -1), self.values, strict=True):
            yield JUMP_IF_EQUAL, left, 0, value
        if bits := self.some_of or self.none_of:
            yield JUMP_IF_ANY_BIT, int(bool(self.some_of)), int(bool(self.none_of)), bits
        yield refuse


def conditions(pid: int) -> dict[str, Condition]:
    """For the calls that could do more than decoding needs, in process `pid`."""
    return {
        "newfstatat": Condition(3, some_of=AT_EMPTY_PATH),
        "fcntl": Condition(1, FILE_COMMANDS),
        "ioctl": Condition(1, (FIONBIO,)),
        "sendto": Condition(4, (0,)),  # no address: to whom it is connected
        "mmap": Condition(2, none_of=PROT_EXEC),
        "mprotect": Condition(2, none_of=PROT_EXEC),
        "clone": Condition(0, some_of=CLONE_THREAD),
        "prctl": Condition(0, (PR_SET_NAME,)),
        "tgkill": Condition(0, (pid,)),
        "prlimit64": Condition(0, (0, pid)),
    }


def filter_program(machine: str, pid: int) -> list[Instruction] | None:
    """The filter for process `pid`; None for a machine whose numbers are not known."""
    if machine not in ARCHITECTURES:
        return None
    column, architecture = ARCHITECTURES[machine]
    limits = conditions(pid)
    program: list[Instruction] = [
        (LOAD, 0, 0, ARCH_OFFSET),
        (JUMP_IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL_PROCESS),
        (LOAD, 0, 0, NUMBER_OFFSET),
        (JUMP_IF_AT_LEAST, 0, 1, FIRST_SHARED),
        (RETURN, 0, 0, ERRNO | errno.ENOSYS),
    ]
    for name, numbers in CALLS.items():
        number = numbers[column]
        if number is None:
            continue
        block = [*(limits[name].instructions() if name in limits else ()), (RETURN, 0, 0, ALLOW)]
        program += [(JUMP_IF_EQUAL, 0, len(block), number), *block]
    return [*program, (RETURN, 0, 0, ERRNO | errno.EPERM)]


class Program(ctypes.Structure):
    """The kernel's `sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def filter_calls() -> bool:
    """Restrict all threads of this process for good; False if the kernel or the machine can't.

    Needs PR_SET_NO_NEW_PRIVS.
    """
    machine = platform.machine()
    program = filter_program(machine, os.getpid()) if sys.platform == "linux" else None
    if program is None:
        return False
    code = b"".join(struct.pack("=HBBI", *each) for each in program)
    call = ctypes.CDLL(None, use_errno=True).syscall
    number = SECCOMP[ARCHITECTURES[machine][0]]
    filters = Program(len(program), code)
    return int(call(number, SET_MODE_FILTER, ALL_THREADS, ctypes.byref(filters))) == 0
