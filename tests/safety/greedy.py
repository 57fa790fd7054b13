"""`make greedy`: honest clients beside greedy and hostile ones, over real sockets.

Two honest clients send a single text, or a small image, at a time. Beside them run one attack after
another, each from an address of its own. A table says what everybody got; the status is 1 if an
honest request got anything but 200, or a 429 had no true Retry-After.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, partial
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np

from tests.media_files import write_image
from tests.serving import Running, serving
from tests.slow_host import SlowHost, slow_host

TEXT_CLIENT, IMAGE_CLIENT, PROBE = "127.0.0.2", "127.0.0.3", "127.0.0.4"
GREEDY, OTHER_GREEDY = "127.0.0.8", "127.0.0.9"
PAUSE = 0.02
"""Seconds between an honest client's requests."""
PATIENCE = 330.0

"""What the 99th percentile beside an attack should be at most, as a multiple of the idle one."""
LIST = 2048
BODY_MB, BODIES = 60, 20
IDLE_CONNECTIONS = 2000
SMALL_CLIENTS = 64


def text(*words: str) -> bytes:
    return json.dumps({"input": {"type": "text", "text": list(words)}}).encode()


def post(connection: HTTPConnection, body: bytes) -> tuple[int, str | None]:
    """The status and the Retry-After header; status 0 if the connection broke."""
    try:
        connection.request("POST", "/embeddings", body, {"content-type": "application/json"})
        response = connection.getresponse()
        response.read()
    except (OSError, HTTPException):
        connection.close()
        return 0, None
    return response.status, response.headers["retry-after"]


def dial(port: int, address: str) -> HTTPConnection:
    return HTTPConnection("127.0.0.1", port, timeout=PATIENCE, source_address=(address, 0))


# ── honest clients, in processes of their own ──


@dataclass
class Honest:
    """What an honest client saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


def be_honest(port: int, seconds: float, address: str, body: bytes) -> Honest:
    """One request at a time, on one connection."""
    seen, connection = Honest(), dial(port, address)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.perf_counter()
        status, _ = post(connection, body)
        seen.seconds.append(time.perf_counter() - started)
        seen.statuses[status] += 1
        time.sleep(PAUSE)
    return seen


def probe(port: int, seconds: float) -> Honest:
    """/live and /ready on new connections, as an orchestrator asks."""
    seen, until = Honest(), time.monotonic() + seconds
    while time.monotonic() < until:
        for path in ("/live", "/ready"):
            connection = dial(port, PROBE)
            try:
                connection.request("GET", path)
                seen.statuses[connection.getresponse().status] += 1
            except (OSError, HTTPException):
                seen.statuses[0] += 1
            connection.close()
        time.sleep(PAUSE * 5)
    return seen


# ── attacks ──


@dataclass
class Greedy:
    """What the clients of an attack got; shared by its threads."""

    port: int
    slow: SlowHost
    statuses: Counter[int] = field(default_factory=Counter)
    retry_after: Counter[str | None] = field(default_factory=Counter)
    retried: Counter[int] = field(default_factory=Counter)
    """Statuses of requests that were sent again after the seconds in Retry-After."""
    over: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, connection: HTTPConnection, body: bytes) -> tuple[int, str | None]:
        status, retry_after = post(connection, body)
        with self.lock:
            if status or not self.over.is_set():
                self.statuses[status] += 1
            if status == 429:
                self.retry_after[retry_after] += 1
        return status, retry_after


Attack = Callable[[Greedy, ExitStack], None]
"""Starts threads, which end once `over` is set and their connections are closed."""


def start(
    stack: ExitStack, greedy: Greedy, run: Callable[[HTTPConnection], None], address: str
) -> None:
    connection = dial(greedy.port, address)
    thread = threading.Thread(target=run, args=(connection,), daemon=True)
    thread.start()
    stack.callback(hang_up, connection, thread)


def hang_up(connection: HTTPConnection, thread: threading.Thread) -> None:
    """Close the connection, as often as its thread opens it, until the thread has ended."""
    while thread.is_alive():
        if connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        thread.join(0.1)


def repeat(bodies: Sequence[bytes], clients: int, addresses: Sequence[str] = (GREEDY,)) -> Attack:
    """Clients that send one request after another, and again 0.1 s after an error."""

    def attack(greedy: Greedy, stack: ExitStack) -> None:
        def run(body: bytes, connection: HTTPConnection) -> None:
            while not greedy.over.is_set():
                status, _ = greedy.ask(connection, body)
                greedy.over.wait(0 if status == 200 else 0.1)

        for number in range(clients):
            body = bodies[number % len(bodies)]
            start(stack, greedy, partial(run, body), addresses[number % len(addresses)])

    return attack


def obey(greedy: Greedy, stack: ExitStack, body: bytes) -> None:
    """A client that waits for as long as Retry-After says, and notes what its next request gets."""

    def run(connection: HTTPConnection) -> None:
        pause: str | None = None
        while not greedy.over.wait(float(pause or 0)):
            status, later = greedy.ask(connection, body)
            if pause is not None and status:
                greedy.retried[status] += 1
            pause = later if status == 429 else None

    start(stack, greedy, run, OTHER_GREEDY)


def slow_videos(greedy: Greedy, stack: ExitStack) -> None:
    source = {"type": "video_url", "video_url": f"{greedy.slow.url}/v.mp4"}
    body = {"input": {**source, "segment_config": {"num_frames": 0}}}
    repeat([json.dumps(body).encode()], 2)(greedy, stack)


def slow_lists(greedy: Greedy, stack: ExitStack) -> None:
    urls = [f"{greedy.slow.url}/{number}.png" for number in range(LIST)]
    body = {"input": {"type": "image_url", "image_url": urls}}
    repeat([json.dumps(body).encode()], 8, (GREEDY, OTHER_GREEDY))(greedy, stack)


def large_videos(greedy: Greedy, stack: ExitStack) -> None:
    body = {"type": "video_base64", "video_base64": base64.b64encode(video_8k()).decode()}
    repeat([json.dumps({"input": body}).encode()], 4)(greedy, stack)


@cache
def video_8k() -> bytes:
    """60 frames of 7680 x 4320 in at most 100 KB: one gray."""
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        with av.open(file.name, "w") as target:
            stream = target.add_stream("libx264", rate=30, options={"preset": "veryfast"})
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = 7680, 4320, "yuv420p"
            stream.gop_size = 60
            plane = np.full((4320 * 3 // 2, 7680), 128, np.uint8)
            for _ in range(60):
                target.mux(stream.encode(av.VideoFrame.from_ndarray(plane, "yuv420p")))
            target.mux(stream.encode())
        data = file.read()
    assert len(data) <= 100_000
    return data


def large_bodies(greedy: Greedy, stack: ExitStack) -> None:
    prefix, suffix = b'{"input": {"type": "image_base64", "image_base64": "', b'"}}'
    repeat([prefix + b"A" * (BODY_MB << 20) + suffix], BODIES)(greedy, stack)


def idle_connections(greedy: Greedy, stack: ExitStack) -> None:
    """Half of them have sent a request; all stay open."""

    def open_all(_: HTTPConnection) -> None:
        with ExitStack() as connections:
            for number in range(IDLE_CONNECTIONS):
                address = ("127.0.0.1", greedy.port)
                with suppress(OSError):
                    each = socket.create_connection(address, PATIENCE, (GREEDY, 0))
                    connections.enter_context(each)
                    if number % 2:
                        each.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            greedy.over.wait()

    start(stack, greedy, open_all, GREEDY)


def text_lists(greedy: Greedy, stack: ExitStack) -> None:
    bodies = [text(*(f"{n} cats of {m}" for n in range(LIST))) for m in range(12)]
    repeat(bodies, 12)(greedy, stack)
    for body in bodies[:4]:
        obey(greedy, stack, body)


def small_requests(greedy: Greedy, stack: ExitStack) -> None:
    repeat([text(f"{number} dogs") for number in range(SMALL_CLIENTS)], SMALL_CLIENTS)(
        greedy, stack
    )


ATTACKS: dict[str, Attack] = {
    "nothing": lambda greedy, stack: None,
    "2 videos on a slow host": slow_videos,
    "8 lists of 2,048 slow URLs": slow_lists,
    "4 videos of 60 frames of 8K": large_videos,
    "20 bodies of 60 MB": large_bodies,
    "2,000 idle connections": idle_connections,
    "16 clients with lists of 2,048 texts": text_lists,
    "64 clients with single texts": small_requests,
}


@dataclass
class Outcome:
    """One attack, and what everybody got."""

    name: str
    text: Honest
    image: Honest
    probes: Honest
    greedy: Greedy

    @property
    def p99(self) -> float:
        """Milliseconds, of the honest texts."""
        return float(np.percentile(self.text.seconds, 99)) * 1e3

    def wrong(self) -> list[str]:
        """What must not be, by statuses alone."""
        found = [
            f"{self.name}: {kind} got {dict(seen.statuses)}, not 200 only"
            for kind, seen in (
                ("texts", self.text),
                ("images", self.image),
                ("probes", self.probes),
            )
            if set(seen.statuses) != {200}
        ]
        found += [
            f"{self.name}: Retry-After {value!r} is not 1 to 60"
            for value in self.greedy.retry_after
            if value is None or not value.isdigit() or not 1 <= int(value) <= 60
        ]
        errors = [each for each in self.greedy.statuses if each >= 500 and each not in (503, 504)]
        return found + ([f"{self.name}: server errors {errors}"] if errors else [])

    def row(self, idle: float) -> str:
        waits = sorted(int(value) for value in self.greedy.retry_after if value)
        retried = self.greedy.retried
        honest = (self.text.statuses, self.image.statuses)
        served = " + ".join(f"{each[200]:,}" for each in honest)
        sent = " + ".join(f"{each.total():,}" for each in honest)
        answers = sorted(self.greedy.statuses.items())
        later = f"{waits[0]} to {waits[-1]}" if waits else "none"
        if retried:
            later += f"; {retried[200]} of {retried.total()} served then"
        cells = [
            self.name,
            f"{served} of {sent}",
            f"{self.p99:.0f} ({self.p99 / idle:.1f}x)",
            ", ".join(f"{status or 'closed'}: {count:,}" for status, count in answers) or "none",
            later,
        ]
        return "| " + " | ".join(cells) + " |"


COLUMNS = ("beside", "honest texts + images with 200", "texts' p99, ms", "greedy", "Retry-After, s")


@contextmanager
def server() -> Iterator[tuple[Running, SlowHost]]:
    """A server that may fetch from a slow host."""
    command = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]
    environ = {"EMBEDDING_MEDIA_ALLOWED_HOSTS": "127.0.0.1"}
    with slow_host() as slow, serving(command, environ=environ) as running:
        yield running, slow


def beside(name: str, running: Running, slow: SlowHost, seconds: float) -> Outcome:
    """Run one attack for `seconds` beside the honest clients."""
    port = urlsplit(running.url).port or 0
    greedy = Greedy(port, slow)
    image = {"type": "image_base64", "image_base64": base64.b64encode(write_image("png")).decode()}
    with (
        ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as processes,
        ExitStack() as stack,
    ):
        for each in [processes.submit(probe, port, 0.0) for _ in range(3)]:
            each.result()  # their imports take a second
        ATTACKS[name](greedy, stack)
        stack.callback(greedy.over.set)
        time.sleep(min(1.0, seconds / 4))
        body: Any = json.dumps({"input": image}).encode()
        texts = processes.submit(be_honest, port, seconds, TEXT_CLIENT, text("a cat"))
        images = processes.submit(be_honest, port, seconds, IMAGE_CLIENT, body)
        probes = processes.submit(probe, port, seconds)
        return Outcome(name, texts.result(), images.result(), probes.result(), greedy)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=ATTACKS, help="this attack, after the idle figures")
    parser.add_argument("--seconds", type=float, default=20, help="for each attack")
    options = parser.parse_args()
    wrong: list[str] = []
    idle = 1.0
    print("| " + " | ".join(COLUMNS) + " |")  # noqa: T201
    print("| " + " | ".join("---" for _ in COLUMNS) + " |")  # noqa: T201
    with server() as (running, slow):
        for name in ("nothing", options.only) if options.only else ATTACKS:
            outcome = beside(name, running, slow, options.seconds)
            idle = outcome.p99 if name == "nothing" else idle
            print(outcome.row(idle), flush=True)  # noqa: T201
            wrong += outcome.wrong()
        status = running.stop()
    wrong += [f"exit status {status}"] if status else []
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
