"""`make soak`: a server under ordinary clients, damaged input, vanishing clients and kill -9.

Ordinary answers are compared with those that the server gave when it was alone. At the end a
report is printed; the status is 1 where an answer was wrong, a server error was neither 503 nor
504, or memory, descriptors or files were left behind.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import numpy as np

from tests.safety.mutations import LEAK, bodies, images, mutate, videos
from tests.serving import PATIENCE, Running, serving

TEXTS = ["a cat", "a cup of coffee", "two boats on a lake, seen from above", "x"]
WARM = 0.25
"""Share of the time after which memory must stay where it is."""
GROWTH = 1.15
"""How much more than after the warm-up the server may hold at the end."""
EVERY = 0.5
KILL_EVERY = 3.0


@dataclass
class Tally:
    """What has happened so far; shared by all threads."""

    counts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    rss: list[tuple[float, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str, by: int = 1) -> None:
        with self.lock:
            self.counts[what] += by

    def answered(self, answer: httpx2.Response) -> None:
        status = answer.status_code
        with self.lock:
            self.statuses[status] += 1
            if status >= 500 and status not in (503, 504):
                self.wrong.append(f"status {status}: {answer.text[:200]}")
            if status >= 400 and LEAK.search(answer.text):
                self.wrong.append(f"a message reveals internals: {answer.text[:200]}")


class Soak:
    """One run against one server."""

    def __init__(self, running: Running, seconds: float) -> None:
        self.running, self.seconds = running, seconds
        self.tally, self.over = Tally(), threading.Event()
        good = [base64.b64encode(image).decode() for image in images()[:4]]
        self.video = base64.b64encode(videos()[0]).decode()
        self.sources: list[dict[str, Any]] = [
            {"type": "text", "text": TEXTS},
            {"type": "image_base64", "image_base64": good},
            {
                "type": "video_base64",
                "video_base64": self.video,
                "segment_config": {"num_frames": 3},
            },
        ]
        with self.client() as http:
            self.alone = [self.ask(http, source) for source in self.sources]

    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.running.url, timeout=PATIENCE, trust_env=False)

    def ask(self, http: httpx2.Client, source: dict[str, Any]) -> Any:
        answer = http.post("/embeddings", json={"input": source})
        self.tally.answered(answer)
        self.tally.count("requests")
        return np.array(answer.json()["embedding"]) if answer.status_code == 200 else None

    # ── those who come and go ──

    def ordinary(self, rng: random.Random) -> None:
        """Correct vectors, or a clean error if the decoder of this video was killed."""
        with self.client() as http:
            while not self.over.is_set():
                place = rng.randrange(len(self.sources))
                result = self.ask(http, self.sources[place])
                self.tally.count("compared" if result is not None else "rejected")
                if result is not None and not same(result, self.alone[place]):
                    with self.tally.lock:
                        self.tally.wrong.append(f"other vectors for {self.sources[place]['type']}")

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
        while not self.over.wait(rng.uniform(0, 2 * KILL_EVERY)):
            victims = children(self.running.process.pid)
            if victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(victims), signal.SIGKILL)
                    self.tally.count("decoders killed")

    def watching(self, rng: random.Random) -> None:
        started = time.monotonic()
        while not self.over.wait(EVERY):
            self.tally.rss.append((time.monotonic() - started, resident(self.running.process.pid)))

    def run(self) -> None:
        jobs: list[Callable[[random.Random], None]] = [
            *[self.ordinary] * 3, *[self.damaged] * 2, self.vanishing, self.killing, self.watching
        ]  # fmt: skip
        threads = [
            threading.Thread(target=job, args=(random.Random(number),))
            for number, job in enumerate(jobs)
        ]
        for thread in threads:
            thread.start()
        time.sleep(self.seconds)
        self.over.set()
        for thread in threads:
            thread.join(PATIENCE)
        if any(thread.is_alive() for thread in threads):
            self.tally.wrong.append("a client still waits for its answer")


def same(result: Any, expected: Any) -> bool:
    return result.shape == expected.shape and bool(((result * expected).sum(-1) > 0.9999).all())


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    rest = [Path(f"/proc/{pid}/task/{task.name}/children") for task in threads_of(pid)]
    return sorted(
        {int(each) for path in rest for each in path.read_text().split()}
        | set(map(int, listed.split()))
    )


def threads_of(pid: int) -> Iterator[Path]:
    yield from Path(f"/proc/{pid}/task").iterdir()


def resident(pid: int) -> int:
    """Bytes of memory of a process, without what it shares with files."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def soak(seconds: float) -> tuple[dict[str, Any], list[str]]:
    """Run -> (the report, what was wrong)."""
    command = [sys.executable, "-m", "multimodal_embedding_serving", "serve", "--port", "0"]
    with (
        tempfile.TemporaryDirectory() as scratch,
        serving(command, environ={"TMPDIR": scratch}) as running,
    ):
        run = Soak(running, seconds)
        pid = running.process.pid
        opened = descriptors(pid)
        run.run()
        time.sleep(2)  # the last connections are being closed
        left_open = descriptors(pid)
        tally = run.tally
        warm = [size for when, size in tally.rss if when >= seconds * WARM]
        early, late = warm[: len(warm) // 4], warm[-len(warm) // 4 :]
        growth = float(np.median(late) / np.median(early))
        status = running.stop()
        left = sorted(path.name for path in Path(scratch).iterdir())
    report = {
        "seconds": round(seconds),
        **{name: tally.counts[name] for name in sorted(tally.counts)},
        "statuses": {str(each): count for each, count in sorted(tally.statuses.items())},
        "wrong answers": len(tally.wrong),
        "memory after warm-up, MB": round(float(np.median(early)) / 1e6),
        "memory at the end, MB": round(float(np.median(late)) / 1e6),
        "peak memory, MB": round(max(size for _, size in tally.rss) / 1e6),
        "descriptors before and after": [opened, left_open],
        "temporary files left": len(left),
        "exit status": status,
    }
    wrong = [*tally.wrong[:20]]
    wrong += [f"memory grew by {growth:.2f}"] if growth > GROWTH else []
    wrong += [f"{left_open - opened} descriptors more"] if left_open > opened + 16 else []
    wrong += [f"left behind: {left[:5]}"] if left else []
    wrong += [f"exit status {status}"] if status else []
    return report, wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=900)
    report, wrong = soak(parser.parse_args().seconds)
    print(json.dumps(report, indent=1))  # noqa: T201
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
