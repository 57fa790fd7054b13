"""Threads that compute yield to the ones that answer, also in a process of low priority."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from multimodal_embedding_serving.batching.priority import (
    IMAGE_NICENESS,
    MAX_NICENESS,
    REPLICA_NICENESS,
    WORKER_NICENESS,
)

STEPS = """
import os, threading
from multimodal_embedding_serving.batching.priority import (lower_priority)

os.nice({start})
if os.getuid() == 0:
    os.setuid(65534)  # who may not raise a priority again
niceness_values = []

def work():
    for niceness in {steps}:
        lower_priority(niceness)
        niceness_values.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

thread = threading.Thread(target=work)
thread.start()
thread.join()
print(niceness_values, os.getpriority(os.PRIO_PROCESS, 0))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own here")
@pytest.mark.parametrize(
    ("start", "steps", "expected_steps"),
    [
        (0, [REPLICA_NICENESS], [2]),
        (0, [WORKER_NICENESS, IMAGE_NICENESS], [5, 10]),
        (0, [IMAGE_NICENESS, WORKER_NICENESS], [10, 10]),
        (10, [WORKER_NICENESS], [15]),
        (17, [WORKER_NICENESS, IMAGE_NICENESS], [19, 19]),
    ],
)
def test_a_thread_steps_back_from_its_process_and_never_up(
    start: int, steps: list[int], expected_steps: list[int]
) -> None:
    base = os.nice(0)
    expected = [min(base + each, MAX_NICENESS) for each in expected_steps]
    done = subprocess.run(
        [sys.executable, "-c", STEPS.format(start=start, steps=steps)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == f"{expected} {min(base + start, MAX_NICENESS)}\n", done.stderr
