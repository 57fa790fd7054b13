"""What a decoder process can't do any more, while it decodes every format.

Where this kernel lacks Landlock or seccomp, the tests hold the process to what it states of itself,
which is what `mmes doctor` shows.
"""

from __future__ import annotations

import ctypes
import errno
import json
import platform
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from multimodal_embedding_serving.media import seccomp
from multimodal_embedding_serving.media.decoder_handle import Decoder, Kind
from multimodal_embedding_serving.media.isolation import ATTEMPTS, Isolation
from multimodal_embedding_serving.media.landlock import landlock_version
from multimodal_embedding_serving.media.seccomp import CALLS, filter_program
from tests.media_files import write_image, write_video

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are Linux's own")

MEMORY = 2 << 30
FORBIDDEN = """
import ctypes, json, os, socket, sys
from multimodal_embedding_serving.media.isolation import isolate
from multimodal_embedding_serving.media.sandbox import die_with_parent
from multimodal_embedding_serving.media import image_task, video_task
{before}
image_task.load_decoders()
video_task.load_decoders()
die_with_parent(os.getppid())
open_socket = socket.socket()
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)
tries = {{
    "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "create": lambda: os.open(sys.argv[1] + "/made", os.O_WRONLY | os.O_CREAT),
    "list": lambda: os.listdir("/"),
    "unlink": lambda: os.unlink(sys.argv[1] + "/kept"),
    "rename": lambda: os.rename(sys.argv[1] + "/kept", sys.argv[1] + "/lost"),
    "mkdir": lambda: os.mkdir(sys.argv[1] + "/made"),
    "link": lambda: os.symlink("/", sys.argv[1] + "/made"),
    "connect": lambda: open_socket.connect(("127.0.0.1", int(sys.argv[2]))),
    "bind": lambda: open_socket.bind(("127.0.0.1", 0)),
    "socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "unix socket": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
    "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "sendto": lambda: datagrams.sendto(b"x", ("127.0.0.1", int(sys.argv[2]))),
    "execve": lambda: os.execv(sys.executable, [sys.executable, "-c", ""]),
    "fork": lambda: os.fork() or os._exit(0),
    "kill": lambda: os.kill(os.getppid(), 0),
    "ptrace": lambda: call("ptrace", 16, os.getppid(), 0, 0),
    "mount": lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "unshare": lambda: call("unshare", 0x10000000),
    "memfd": lambda: os.memfd_create("code"),
    "io_uring": lambda: call("syscall", 425, 1, ctypes.create_string_buffer(256)),
    "bpf": lambda: call("bpf", 0, ctypes.create_string_buffer(64), 64),
    "code": lambda: __import__("mmap").mmap(-1, 4096, prot=5),
    "other process's limits": lambda: __import__("resource").prlimit(os.getppid(), 7),
}}
state = isolate()
def outcome(attempt):
    try:
        attempt()
    except OSError as error:
        return error.errno
    except AttributeError:  # the C library has no such function
        return None
    return 0
from multimodal_embedding_serving.media.image import ImageLimits, decode_rgb
from multimodal_embedding_serving.media.sampling import Segment, VideoLimits
from multimodal_embedding_serving.media.video import read_frames
image, video = sys.stdin.buffer.read().split(b"====")
def decode():
    limits = ImageLimits(max_bytes=1 << 25, max_pixels=10**7, formats=("JPEG",))
    video_limits = VideoLimits(max_bytes=1 << 26, max_seconds=3600, max_frames=4096)
    frames = list(read_frames(video, Segment(num_frames=0), video_limits))
    return [*decode_rgb(image, limits).size, len(frames)]
before = decode()
results = {{}} if {only_decode} else {{name: outcome(each) for name, each in tries.items()}}
print(json.dumps([before, results, decode(), state.landlock, state.seccomp, state.possible]))
"""
NEEDS_LANDLOCK = {"open", "create", "list", "unlink", "rename", "mkdir", "link", "execve", "ptrace"}
"""What Landlock refuses alone, in every version."""


def isolated(
    tmp_path: Path, *, before: str = "", only_decode: bool = False
) -> tuple[list[int], dict[str, int | None], list[int], Isolation]:
    """Isolate a process; what it decodes, the error numbers of what it tries, what it decodes then,
    and what it states."""
    (tmp_path / "kept").write_text("kept")
    code = FORBIDDEN.format(before=before, only_decode=only_decode)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "9"],
        input=write_image("jpeg") + b"====" + write_video("mp4", 10),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    first, results, last, landlock, filtered, possible = json.loads(done.stdout)
    return first, results, last, Isolation(landlock, filtered, tuple(possible))


def test_an_isolated_process_decodes_and_can_do_nothing_else(tmp_path: Path) -> None:
    first, results, last, state = isolated(tmp_path)
    assert first == last == [64, 48, 10]
    assert len(results) == 24
    if state.seccomp:  # None: the C library has no such function
        assert set(results.values()) <= {errno.EPERM, errno.ENOSYS, None}
        assert state.possible == ()
    if state.seccomp or state.landlock:
        assert {name for name, number in results.items() if number} >= NEEDS_LANDLOCK
        assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_it_states_what_this_kernel_has(tmp_path: Path) -> None:
    *_, state = isolated(tmp_path, only_decode=True)
    assert state.landlock == landlock_version()
    modes = Path("/proc/sys/kernel/seccomp/actions_avail")
    available = modes.exists() and "errno" in modes.read_text().split()
    assert state.seccomp is (available and platform.machine() in seccomp.ARCHITECTURES)


WITHOUT = """
import ctypes, os, struct
def without(*numbers):
    load = [(0x20, 0, 0, 0)]
    for number in numbers:
        load += [(0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | {error})]
    load += [(0x06, 0, 0, 0x7FFF0000)]
    code = b"".join(struct.pack("=HBBI", *each) for each in load)
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))
    libc = ctypes.CDLL(None)
    libc.prctl(38, 1, 0, 0, 0)
    assert libc.prctl(22, 2, ctypes.byref(Program(len(load), code)), 0, 0) == 0
without({numbers})
"""


@pytest.mark.skipif(
    platform.machine() not in seccomp.ARCHITECTURES, reason="its numbers are not known"
)
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP])
@pytest.mark.parametrize("lacking", ["landlock", "seccomp", "both"])
def test_a_kernel_that_lacks_it_decodes_all_the_same(
    lacking: str, error: int, tmp_path: Path
) -> None:
    """The calls are taken from the process by a filter, as a container's runtime does."""
    column, _ = seccomp.ARCHITECTURES[platform.machine()]
    landlock, filters = [444, 445, 446], [seccomp.SECCOMP[column]]
    numbers = {"landlock": landlock, "seccomp": filters, "both": landlock + filters}[lacking]
    before = WITHOUT.format(numbers=", ".join(map(str, numbers)), error=error)
    first, _, last, state = isolated(tmp_path, before=before, only_decode=True)
    assert first == last == [64, 48, 10]
    assert lacking == "seccomp" or state.landlock == 0
    assert lacking == "landlock" or state.seccomp is False
    if lacking == "both":
        assert state == Isolation(0, False, tuple(ATTEMPTS))


@pytest.mark.skipif(not landlock_version(), reason="this kernel has no Landlock")
def test_landlock_alone_keeps_files_and_other_processes_safe(tmp_path: Path) -> None:
    column, _ = seccomp.ARCHITECTURES.get(platform.machine(), (0, 0))
    before = WITHOUT.format(numbers=seccomp.SECCOMP[column], error=errno.ENOSYS)
    first, results, last, state = isolated(tmp_path, before=before)
    assert first == last == [64, 48, 10]
    assert state.seccomp is False
    needed = NEEDS_LANDLOCK | ({"connect", "bind"} if state.landlock >= 4 else set())
    needed |= {"kill"} if state.landlock >= 6 else set()
    assert {name for name, number in results.items() if number} >= needed
    assert "open files" not in state.possible
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("kind", ["video", "image"])
def test_a_decoder_states_its_isolation_and_has_no_rights(kind: Kind) -> None:
    with closing(Decoder(kind, MEMORY)) as decoder:
        state = decoder.isolation()
        status = Path(f"/proc/{decoder.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines())
    assert state.landlock == landlock_version()
    assert (fields["Seccomp"] == "2") is state.seccomp
    assert fields["NoNewPrivs"] == "1"
    assert {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapInh")} == {0}


# ── the filter, on both architectures: run by an interpreter of its own ──


def run(program: list[seccomp.Instruction], number: int, arch: int, *arguments: int) -> int:
    """What the kernel would return for a system call, by the semantics of the classic BPF."""
    words = [number, arch, 0, 0]
    for argument in (*arguments, *[0] * (6 - len(arguments))):
        words += [argument & 0xFFFFFFFF, argument >> 32 & 0xFFFFFFFF]
    accumulator, place = 0, 0
    while True:
        operation, true, false, operand = program[place]
        place += 1
        if operation == 0x20:
            accumulator = words[operand // 4]
        elif operation == 0x06:
            return operand
        else:
            holds = {
                0x15: accumulator == operand,
                0x35: accumulator >= operand,
                0x45: accumulator & operand != 0,
            }[operation]
            place += true if holds else false


ALLOWED, PERM, NOSYS = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
PID = 4321


@pytest.fixture(params=["x86_64", "aarch64"])
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def verdict(machine: str, name: str, *arguments: int) -> int:
    column, arch = seccomp.ARCHITECTURES[machine]
    program = filter_program(machine, PID)
    assert program is not None
    number = CALLS[name][column]
    assert number is not None
    return run(program, number, arch, *arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("read", (0,), ALLOWED),
        ("futex", (1, 2, 3), ALLOWED),
        ("exit_group", (0,), ALLOWED),
        ("mmap", (0, 4096, 3, 34), ALLOWED),
        ("mmap", (0, 4096, 5, 34), PERM),
        ("mprotect", (0, 4096, 1), ALLOWED),
        ("mprotect", (0, 4096, 7), PERM),
        ("clone", (0x3D0F00,), ALLOWED),
        ("clone", (0x1200011,), PERM),  # fork
        ("sendto", (3, 1, 1, 0, 0, 0), ALLOWED),
        ("sendto", (3, 1, 1, 0, 0x7FFF00001000, 16), PERM),
        ("sendto", (3, 1, 1, 0, 0x100000000, 16), PERM),
        ("fcntl", (3, 3), ALLOWED),
        ("fcntl", (3, 8, 1), PERM),  # F_SETOWN: signals to another process
        ("ioctl", (3, 0x5421), ALLOWED),
        ("ioctl", (0, 0x5412), PERM),  # TIOCSTI: input to the terminal
        ("prctl", (15, 1), ALLOWED),
        ("prctl", (22, 2), PERM),
        ("tgkill", (PID, PID, 6), ALLOWED),
        ("tgkill", (1, 1, 9), PERM),
        ("prlimit64", (0, 7), ALLOWED),
        ("prlimit64", (1, 7), PERM),
        ("newfstatat", (3, 1, 2, 0x1000), ALLOWED),
        ("newfstatat", (-100 & (2**64 - 1), 1, 2, 0), PERM),
    ],
)
def test_an_argument_decides_where_a_call_could_do_more(
    machine: str, name: str, arguments: tuple[int, ...], result: int
) -> None:
    assert verdict(machine, name, *arguments) == result


def test_every_other_call_is_refused(machine: str) -> None:
    column, arch = seccomp.ARCHITECTURES[machine]
    program = filter_program(machine, PID)
    assert program is not None
    allowed = {numbers[column] for numbers in CALLS.values()}
    for number in range(1024):
        result = run(program, number, arch)
        if number not in allowed:
            assert result == (NOSYS if number >= 424 else PERM), number
    assert run(program, 0x40000000 | 59, arch) == NOSYS  # x32: execve under another number
    assert run(program, 11, 0x40000003) == seccomp.KILL_PROCESS  # 32-bit x86: execve
    assert max(true + false for _, true, false, _ in program) < 256


def test_the_numbers_are_those_of_libseccomp(machine: str) -> None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp is not installed (Debian: libseccomp2)")
    column, arch = seccomp.ARCHITECTURES[machine]
    expected = {
        name: library.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(arch), name.encode())
        for name in CALLS
    }
    for name, numbers in CALLS.items():
        number = numbers[column]
        assert number == expected[name] if number is not None else expected[name] < 0, name
    install = library.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(arch), b"seccomp")
    assert seccomp.SECCOMP[column] == install


def test_an_unknown_machine_has_no_filter() -> None:
    assert filter_program("riscv64", PID) is None
