"""Where a server's Python threads spend their time, sampled by py-spy."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_LINES = 12


@contextmanager
def sampled(pid: int, seconds: float, into: list[str]) -> Iterator[None]:
    """Sample a process while the block runs; append the lines to `into`, or why there are none."""
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
            into.append(f"can't run py-spy: {error}")
            yield
            return
        try:
            yield
        finally:
            output, _ = process.communicate(timeout=seconds + 60)
        lines = stacks.read_text().splitlines() if stacks.is_file() else []
        into += heaviest(lines) or [f"py-spy took no samples: {output.strip()[-200:]}"]


def heaviest(stacks: Iterable[str], top: int = MAX_LINES) -> list[str]:
    """Collapsed stacks (`outer;inner count`) -> shares by our innermost function and the innermost
    frame, largest first. Waiting threads are not sampled."""
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
    total = sum(counts.values())
    return [f"{number / total:6.1%}  {place}" for place, number in counts.most_common(top)]
