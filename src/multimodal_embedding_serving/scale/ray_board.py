"""How far the shards of a job are: actors note it on a board, and the driver reads it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from multimodal_embedding_serving.bulk.job import Tally, Watch
from multimodal_embedding_serving.errors import MissingExtra

try:
    import ray
except ModuleNotFoundError as error:
    raise MissingExtra("Ray", "ray") from error

READ_SECONDS = 1.0
COUNTS = ("embedded", "failed", "vectors")


class Board:
    """The last counts of each shard that is being embedded."""

    def __init__(self) -> None:
        self._reports: dict[int, dict[str, int]] = {}

    def note(self, report: dict[str, int]) -> None:
        self._reports[report["shard"]] = report

    def read(self) -> dict[int, dict[str, int]]:
        return self._reports


class Follower:
    """Adds up the shards into a tally and reports it. Thread-safe."""

    def __init__(self, tally: Tally, total: int, watch: Watch) -> None:
        self.actor: Any = ray.remote(num_cpus=0)(Board).remote()
        self._tally, self._total, self._watch = tally, total, watch
        self._reports: dict[int, dict[str, int]] = {}
        self._finished: set[int] = set()
        self._lock = threading.Lock()
        self.ended = threading.Event()

    def finish(self, report: Mapping[str, Any]) -> None:
        """A shard is done, with these counts; what the board says of it no longer counts."""
        number = int(report["shard"])
        with self._lock:
            self._finished.add(number)
            self._reports[number] = {name: int(report[name]) for name in COUNTS}
            self._show()

    def follow(self) -> None:
        """Read the board until the job has ended."""
        while not self.ended.wait(READ_SECONDS):
            try:
                notes = ray.get(self.actor.read.remote(), timeout=READ_SECONDS)
            except ray.exceptions.GetTimeoutError:
                continue
            except ray.exceptions.RayError:  # its machine is lost: finished shards still count
                return
            with self._lock:
                unfinished = notes.keys() - self._finished
                self._reports.update({number: notes[number] for number in unfinished})
                self._show()

    def _show(self) -> None:
        for name in COUNTS:
            setattr(self._tally, name, sum(each[name] for each in self._reports.values()))
        self._watch(self._tally, self._total)


@contextmanager
def following(tally: Tally, total: int, watch: Watch) -> Iterator[Follower]:
    """Report a job's progress to `watch`, from another thread, while the block runs."""
    watch(tally, total)
    follower = Follower(tally, total, watch)
    thread = threading.Thread(target=follower.follow, name="ray-progress", daemon=True)
    thread.start()
    try:
        yield follower
    finally:
        follower.ended.set()
        thread.join()
