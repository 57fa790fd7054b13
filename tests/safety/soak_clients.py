"""The clients of `make soak`: ordinary, interactive, greedy, damaged, vanishing; and kill -9."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
import numpy as np

from tests.safety.mutations import LEAK, bodies, images, mutate, videos
from tests.serving import PATIENCE, Running

TEXTS = ["a cat", "a cup of coffee", "two boats on a lake, seen from above", "x"]
GREEDY_ADDRESS = "127.0.0.2"
"""Where the greedy clients come from: without keys, a client is its address."""
GREEDY_TEXTS = [f"text {number} of a greedy client" for number in range(2048)]
EVERY = 0.5
KILL_EVERY = 3.0
Ending = Literal["", "SIGTERM", "SIGKILL"]
Job = Callable[[random.Random], None]


@dataclass
class Tally:
    """What has happened so far; shared by all threads and rounds."""

    counts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    interactive_ms: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, by: int = 1) -> None:
        with self.lock:
            self.counts[what] += by

    def blame(self, what: str) -> None:
        with self.lock:
            self.wrong.append(what)

    def answered(self, answer: httpx2.Response) -> None:
        status = answer.status_code
        with self.lock:
            self.statuses[status] += 1
        if status >= 500 and status not in (503, 504):
            self.blame(f"status {status}: {answer.text[:200]}")
        if status >= 400 and LEAK.search(answer.text):
            self.blame(f"a message reveals internals: {answer.text[:200]}")
        if status == 429 and not answer.headers.get("retry-after", "").isdigit():
            self.blame("a 429 without Retry-After")


class Load:
    """All clients of one round against one server."""

    def __init__(
        self, running: Running, tally: Tally, expected: list[Any] | None, *, fair: bool
    ) -> None:
        """`expected`: the vectors of an idle server; None: ask this one, which is idle.

        `fair`: an interactive client that gets anything but a 200 is wrong.
        """
        self.running, self.tally, self.fair = running, tally, fair
        self.over, self.ending = threading.Event(), ""
        self.rss: list[tuple[float, int]] = []
        self.descriptors = 0
        """The most that were seen."""
        good = [base64.b64encode(image).decode() for image in images()[:4]]
        self.images = good
        self.sources: list[dict[str, Any]] = [
            {"type": "text", "text": TEXTS},
            {"type": "image_base64", "image_base64": good},
            {
                "type": "video_base64",
                "video_base64": base64.b64encode(videos()[0]).decode(),
                "segment_config": {"num_frames": 3},
            },
        ]
        with self.client() as http:
            idle = [self.ask(http, source) for source in self.sources]
        self.expected = idle if expected is None else expected
        for result, right, source in zip(idle, self.expected, self.sources, strict=True):
            self.compare(result, right, f"{source['type']} after the start")

    def client(self, address: str | None = None) -> httpx2.Client:
        transport = httpx2.HTTPTransport(local_address=address)
        return httpx2.Client(
            base_url=self.running.url, timeout=PATIENCE, trust_env=False, transport=transport
        )

    def ask(self, http: httpx2.Client, source: dict[str, Any]) -> Any:
        answer = http.post("/embeddings", json={"input": source})
        self.tally.answered(answer)
        self.tally.count("requests")
        return np.array(answer.json()["embedding"]) if answer.status_code == 200 else None

    def compare(self, result: Any, expected: Any, what: str) -> None:
        self.tally.count("compared" if result is not None else "rejected")
        if result is not None and not same(result, expected):
            self.tally.blame(f"other vectors for {what}")

    # ── those who come and go ──

    def ordinary(self, rng: random.Random) -> None:
        """Correct vectors, or a clean error if the decoder of this video was killed."""
        with self.client() as http:
            while not self.over.is_set():
                place = rng.randrange(len(self.sources))
                result = self.ask(http, self.sources[place])
                self.compare(result, self.expected[place], self.sources[place]["type"])

    def interactive(self, _: random.Random) -> None:
        """One short text after the other, with the pauses of a person."""
        source = {"type": "text", "text": TEXTS[:1]}
        with self.client() as http:
            while not self.over.wait(0.1):
                started = time.monotonic()
                result = self.ask(http, source)
                milliseconds = 1000 * (time.monotonic() - started)
                self.compare(result, self.expected[0][:1], "an interactive text")
                if self.ending:
                    return
                self.tally.count(f"interactive {'served' if result is not None else 'rejected'}")
                with self.tally.lock:
                    self.tally.interactive_ms.append(milliseconds)
                if self.fair and result is None:
                    self.tally.blame("an interactive client was rejected")

    def greedy(self, rng: random.Random) -> None:
        """As much at once as the limits allow, as fast as it is taken."""
        texts = {"type": "text", "text": GREEDY_TEXTS}
        pictures = {"type": "image_base64", "image_base64": self.images * 64}
        with self.client(GREEDY_ADDRESS) as http:
            while not self.over.is_set():
                answer = http.post("/embeddings", json={"input": rng.choice([texts, pictures])})
                self.tally.answered(answer)
                self.tally.count(f"greedy {'served' if answer.status_code == 200 else 'rejected'}")
                if answer.status_code == 429:
                    self.over.wait(min(1.0, float(answer.headers.get("retry-after", 1))))

    def damaged(self, rng: random.Random) -> None:
        good, moving, written = images(), videos(), bodies()
        with self.client() as http:
            while not self.over.is_set():
                match rng.randrange(4):
                    case 0:
                        coded = base64.b64encode(mutate(rng.choice(good), rng)).decode()
                        source = {"type": "image_base64", "image_base64": coded}
                        answer = http.post("/embeddings", json={"input": source})
                    case 1:
                        coded = base64.b64encode(mutate(rng.choice(moving), rng)).decode()
                        source = {"type": "video_base64", "video_base64": coded}
                        answer = http.post("/embeddings", json={"input": source})
                    case 2:
                        path, body = rng.choice(written)
                        kind = {"content-type": "application/json"}
                        answer = http.post(path, content=mutate(body, rng), headers=kind)
                    case _:
                        parts = [("file", ("a", mutate(rng.choice(good), rng)))]
                        answer = http.post("/v1/embeddings", files=parts)
                self.tally.answered(answer)
                self.tally.count("damaged inputs")

    def vanishing(self, rng: random.Random) -> None:
        """Clients that stop in the middle of a request, or never read the answer."""
        place = urlsplit(self.running.url)
        body = json.dumps({"input": self.sources[rng.randrange(3)]}).encode()
        head = b"POST /embeddings HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        head += b"content-length: %d\r\n\r\n" % len(body)
        while not self.over.wait(0.2):
            with (
                contextlib.suppress(OSError),
                socket.create_connection((place.hostname or "", place.port or 0), 5) as connection,
            ):
                whole = head + body
                connection.sendall(whole[: rng.randrange(1, len(whole) + 1)])
                self.over.wait(rng.random() / 5)
            self.tally.count("clients that vanished")

    def killing(self, rng: random.Random) -> None:
        """kill -9 of a process that decodes videos, at random moments."""
        while not self.over.wait(rng.uniform(0, 2 * KILL_EVERY)) and not self.ending:
            with contextlib.suppress(OSError):
                if victims := children(self.running.process.pid):
                    os.kill(rng.choice(victims), signal.SIGKILL)
                    self.tally.count("decoders killed")

    def watching(self, _: random.Random) -> None:
        started = time.monotonic()
        while not self.over.wait(EVERY) and not self.ending:
            with contextlib.suppress(OSError):
                size = resident(self.running.process.pid)
                self.rss.append((time.monotonic() - started, size))
                self.descriptors = max(self.descriptors, descriptors(self.running.process.pid))

    def run(self, seconds: float, ending: Ending) -> int:
        """Let everybody loose, then end the server while they are at it -> its exit status."""
        jobs: list[Job] = [
            *[self.ordinary] * 2, self.interactive, *[self.greedy] * 2, *[self.damaged] * 2,
            self.vanishing, self.killing, self.watching,
        ]  # fmt: skip
        threads = [
            threading.Thread(target=self._loose, args=(job, random.Random(number)), daemon=True)
            for number, job in enumerate(jobs)
        ]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self.ending = ending
        if ending == "SIGTERM":
            status = self.running.stop()
        else:
            self.running.process.kill()
            status = self.running.process.wait(PATIENCE)
        self.over.set()
        for thread in threads:
            thread.join(PATIENCE)
        if any(thread.is_alive() for thread in threads):
            self.tally.blame("a client still waits for its answer")
        return status

    def _loose(self, job: Job, rng: random.Random) -> None:
        """A client that loses its connection comes back, until the server can't be reached."""
        while not self.over.is_set():
            try:
                job(rng)
            except httpx2.ConnectError as error:  # it no longer listens
                if not self.ending:
                    self.tally.blame(f"cannot connect: {error}")
                return
            except httpx2.TransportError as error:
                reset = "reset" in f"{error} {error.__cause__}".lower()
                if not self.ending or (self.ending == "SIGTERM" and reset):
                    self.tally.blame(f"{type(error).__name__} {self.ending}: {error}")
                self.tally.count(f"connections that {self.ending or 'nothing'} ended")
            except Exception as error:  # noqa: BLE001 - a client that dies sees nothing any more
                self.tally.blame(f"a client failed: {type(error).__name__}: {error}")
                return


def same(result: Any, expected: Any) -> bool:
    return result.shape == expected.shape and bool(((result * expected).sum(-1) > 0.9999).all())


def children(pid: int) -> list[int]:
    rest = [Path(f"/proc/{pid}/task/{task.name}/children") for task in threads_of(pid)]
    return sorted({int(each) for path in rest for each in path.read_text().split()})


def threads_of(pid: int) -> Iterator[Path]:
    yield from Path(f"/proc/{pid}/task").iterdir()


def resident(pid: int) -> int:
    """Bytes of memory of a process, without what it shares with files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
