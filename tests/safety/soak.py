"""`make soak`: a server under everything at once, ended and started again and again.

Each round starts the server with other settings, after bits were flipped in the files that it
keeps; clients of every kind use it; then SIGTERM or kill -9 ends it while they are at it. Vectors
are compared with those of the idle server of the first round. At the end a report is printed; the
status is 1 where an answer was wrong, a server error was neither 503 nor 504, a damaged file was
served or reported by a traceback, SIGTERM reset a connection, or memory, descriptors or files were
left behind.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from multimodal_embedding_serving.backends.tuning import tune
from multimodal_embedding_serving.conversion.store import load_bundle
from multimodal_embedding_serving.settings import Settings
from tests.conftest import ROOT
from tests.safety.flips import flip, kept_files
from tests.safety.soak_clients import Ending, Load, Tally
from tests.serving import Running, serving

BUILTIN = ROOT / "src" / "multimodal_embedding_serving" / "builtin" / "mini"
WARM = 0.25
"""Share of a round after which memory must stay where it is."""
MIN_JUDGED = 600.0
"""Seconds of a round in which memory can be judged: every kind of request has come many times."""
FIRST_ROUND = 0.25
"""Share of the whole time that the first round takes, so that its memory can be judged."""
GROWTH = 1.15
"""How much more than after the warm-up the server may hold at the end."""
MAX_DESCRIPTORS = 200
"""Of a server with ten clients; without them it has about 20."""
ROUND = 60.0
TUNING_SECONDS = 2.0
MAX_FLIPS = 3
CONFIGURATIONS: list[dict[str, str]] = [
    {},
    {"EMBEDDING_VERIFY": "background", "EMBEDDING_LOG_FORMAT": "json"},
    {"EMBEDDING_CACHE_MB": "32", "PREPROCESS_WORKERS": "1"},
    {"INFER_BATCH_SIZE": "4", "EMBEDDING_INTERACTIVE_REPLICA_MAX_MB": "0"},
    {"OV_ENABLE_MODEL_CACHE": "false", "EMBEDDING_QUEUE_LIMIT": "2100"},
    {"EMBEDDING_MAX_PENDING_MB": "70", "EMBEDDING_KEEPALIVE_SEC": "0.2"},
    {"EMBEDDING_REQUEST_TIMEOUT_SEC": "3", "VIDEO_FRAME_QUEUE_SIZE": "1"},
]
"""None of them changes a vector."""


@dataclass
class Soak:
    """A folder with a model of its own, and what the rounds have shown."""

    folder: Path
    round_seconds: float
    fair: bool = False
    tally: Tally = field(default_factory=Tally)
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    expected: list[Any] | None = None
    memory: list[tuple[float, float]] = field(default_factory=list)
    """Medians of each round, in bytes: after the warm-up, at the end."""

    descriptors: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model, self.models = self.folder / "mini", self.folder / "models"
        self.scratch = self.folder / "scratch"
        self.scratch.mkdir()
        shutil.copytree(BUILTIN, self.model)
        settings = Settings(model=str(self.model), models_dir=self.models)
        tune(load_bundle(settings), settings, seconds=TUNING_SECONDS)
        program = [sys.executable, "-m", "multimodal_embedding_serving", "serve"]
        self.command = [*program, "--port", "0", "--model", str(self.model)]

    def environ(self, number: int) -> dict[str, str]:
        place = {"TMPDIR": str(self.scratch), "EMBEDDING_OV_MODELS_DIR": str(self.models)}
        return {**place, **CONFIGURATIONS[number % len(CONFIGURATIONS)]}

    # ── damage between the rounds ──

    def damage(self) -> list[tuple[Path, bytes, bytes]]:
        """Flip bits -> each file, and its contents before and after."""
        flipped = []
        for _ in range(self.rng.randint(1, MAX_FLIPS)):
            path = self.rng.choice(kept_files(self.models, self.model))
            place = self.rng.randrange(path.stat().st_size)
            before = flip(path, place, self.rng.randrange(8))
            flipped.append((path, before, path.read_bytes()))
            self.tally.count("flipped bits")
        return flipped

    def repair(self, flipped: list[tuple[Path, bytes, bytes]]) -> None:
        for path, before, after in reversed(flipped):
            if path.is_file() and path.read_bytes() == after:  # nothing has replaced it
                path.write_bytes(before)

    def start_damaged(self, number: int) -> None:
        """A start after damage: right vectors, or one line."""
        flipped = self.damage()
        try:
            with serving(self.command, environ=self.environ(number)) as running:
                Load(running, self.tally, self.expected, fair=False)
                self.tally.count("damaged starts served with right vectors")
        except AssertionError as error:
            lines = str(error).strip().splitlines()
            self.tally.count("damaged starts rejected")
            if not lines[-1].startswith("mmes: ") or "Traceback" in str(error):
                files = [path.name for path, _, _ in flipped]
                self.tally.blame(f"no clear line about damaged {files}: {lines[-1][:300]}")
        self.repair(flipped)

    def start_and_kill(self, number: int) -> None:
        """kill -9 at a random moment of the start."""
        with serving(self.command, environ=self.environ(number), wait=False) as running:
            time.sleep(self.rng.uniform(0, 1.5))
            running.process.kill()
            running.process.wait()
            self.tally.count("starts killed")

    # ── a round ──

    def round(self, number: int, seconds: float) -> None:
        if number:
            self.start_damaged(number)
            self.start_and_kill(number)
        ending: Ending = "SIGKILL" if number % 3 == 1 else "SIGTERM"
        try:
            with serving(self.command, environ=self.environ(number)) as running:
                load = Load(running, self.tally, self.expected, fair=self.fair)
                self.expected = load.expected
                status = load.run(seconds, ending)
                self.judge(load, running, ending, status)
        except AssertionError as error:
            self.tally.blame(f"round {number} did not start: {str(error).splitlines()[-1][:300]}")
        self.tally.count(f"rounds ended by {ending}")

    def judge(self, load: Load, running: Running, ending: Ending, status: int) -> None:
        tally = self.tally
        if ending == "SIGTERM" and status:
            tally.blame(f"exit status {status} after SIGTERM")
        if ending == "SIGTERM" and (left := sorted(each.name for each in self.scratch.iterdir())):
            tally.blame(f"left behind: {left[:5]}")
        if "Traceback" in "".join(running.log):
            tally.blame("a traceback in the log")
        self.descriptors.append(load.descriptors)
        if load.descriptors > MAX_DESCRIPTORS:
            tally.blame(f"{load.descriptors} descriptors")
        if not load.rss:
            return
        sizes = [size for when, size in load.rss if when >= load.rss[-1][0] * WARM]
        quarter = -(-len(sizes) // 4)
        early, late = (float(np.median(part)) for part in (sizes[:quarter], sizes[-quarter:]))
        self.memory.append((early, late))
        if late > GROWTH * early and load.rss[-1][0] >= MIN_JUDGED:
            tally.blame(f"memory grew by {late / early:.2f} in a round")

    def report(self, seconds: float) -> dict[str, Any]:
        tally = self.tally
        times = sorted(tally.interactive_ms) or [0.0]
        return {
            "seconds": round(seconds),
            **{name: tally.counts[name] for name in sorted(tally.counts)},
            "statuses": {str(each): number for each, number in sorted(tally.statuses.items())},
            "interactive p50, p99 in ms": [
                round(times[int(share * (len(times) - 1))]) for share in (0.5, 0.99)
            ],
            "memory of rounds after warm-up, at the end, MB": [
                [round(early / 1e6), round(late / 1e6)] for early, late in self.memory
            ],
            "most descriptors of a round, one after the other": self.descriptors,
            "wrong": len(tally.wrong),
        }


def soak(
    seconds: float, round_seconds: float = ROUND, *, fair: bool = False
) -> tuple[dict[str, Any], list[str]]:
    """Run -> (the report, what was wrong)."""
    with tempfile.TemporaryDirectory() as folder:
        run = Soak(Path(folder), round_seconds, fair)
        started = time.monotonic()
        for number in count():
            rest = seconds - (time.monotonic() - started)
            if number and rest < round_seconds / 2:
                break
            first = 0 if number else FIRST_ROUND * seconds
            run.round(number, max(first, min(round_seconds, seconds)))
            line = f"round {number}: {dict(run.tally.counts)}; wrong: {run.tally.wrong[-5:]}"
            print(line, file=sys.stderr, flush=True)  # noqa: T201
        return run.report(time.monotonic() - started), run.tally.wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--round", type=float, default=ROUND, help="seconds of load in a round")
    parser.add_argument(
        "--fair", action="store_true", help="an interactive client that is rejected is wrong"
    )
    options = parser.parse_args()
    report, wrong = soak(options.seconds, options.round, fair=options.fair)
    print(json.dumps(report, indent=1))  # noqa: T201
    for line in wrong[:40]:
        print(f"WRONG: {line}", file=sys.stderr)  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
