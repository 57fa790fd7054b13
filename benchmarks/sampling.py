"""Where a server's Python threads spend their time, by py-spy's samples."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

TOP = 12


@contextmanager
def sampled(pid: int, seconds: float, into: list[str]) -> Iterator[None]:
    """Sample a process while the block runs; `into` gets the lines, or why there are none."""
    with tempfile.TemporaryDirectory() as folder:
        stacks = Path(folder, "stacks.txt")
        command = [
            *(str(Path(sys.executable).with_name("py-spy")), "record", "--pid", str(pid)),
            *("--duration", f"{seconds:.0f}", "--rate", "200", "--format", "raw"),
            *("--nonblocking", "--output", str(stacks)),
        ]
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        except OSError as error:
            into.append(f"py-spy can't be run: {error}")
            yield
            return
        try:
            yield
        finally:
            told, _ = process.communicate(timeout=seconds + 60)
        lines = stacks.read_text().splitlines() if stacks.is_file() else []
        into += heaviest(lines) or [f"py-spy gave no samples: {told.strip()[-200:]}"]


def heaviest(stacks: Iterable[str], top: int = TOP) -> list[str]:
    """Collapsed stacks (`outer;inner count`) -> shares by the innermost function of ours and its
    innermost frame, the largest first. Threads that wait are not sampled."""
    counts: Counter[str] = Counter()
    for line in stacks:
        frames, _, count = line.rpartition(" ")
        if not count.isdigit() or not frames:
            continue
        names = frames.split(";")
        ours = [each for each in names if "multimodal_embedding_serving" in each]
        inner = names[-1]
        place = inner if not ours or ours[-1] == inner else f"{ours[-1]} > {inner}"
        counts[place] += int(count)
    whole = sum(counts.values())
    return [f"{number / whole:6.1%}  {place}" for place, number in counts.most_common(top)]
