"""How long a converted model takes to open, with each EMBEDDING_VERIFY.

    python -m benchmarks.opening MODEL [--runs 7]

Each opening is a process of its own, after one that is not counted: its graphs are compiled and
its files in the page cache. The values take turns, so that other work on the machine hits all;
seconds of CPU time of all threads hardly depend on it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from statistics import median

VALUES = ("off", "background", "full")
CHILD = """
import json, sys, time
from multimodal_embedding_serving import Engine
started, used = time.perf_counter(), time.process_time()
engine = Engine.open(model=sys.argv[1], verify=sys.argv[2])
print(json.dumps([time.perf_counter() - started, time.process_time() - used]))
engine.close()
"""


def opening(model: str, verify: str) -> tuple[float, float]:
    """Seconds until the model is ready to answer, without the imports, and of CPU time."""
    command = [sys.executable, "-c", CHILD, model, verify]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    elapsed, used = json.loads(done.stdout)
    return float(elapsed), float(used)


def measure(model: str, runs: int) -> dict[str, list[tuple[float, float]]]:
    """Value of EMBEDDING_VERIFY -> the seconds of its openings."""
    opening(model, "full")
    seconds: dict[str, list[tuple[float, float]]] = {value: [] for value in VALUES}
    for _ in range(runs):
        for value in VALUES:
            seconds[value].append(opening(model, value))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    for value, openings in measure(options.model, options.runs).items():
        elapsed, used = zip(*openings, strict=True)
        print(
            f"EMBEDDING_VERIFY={value}: median {median(elapsed):.2f} s, least "
            f"{min(elapsed):.2f} s; CPU time: median {median(used):.2f} s"
        )


if __name__ == "__main__":
    main()
