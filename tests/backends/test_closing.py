"""A graph is closed while the threads that called it end: OpenVINO must not notice too late."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from multimodal_embedding_serving.conversion.build import build_bundle
from tests.small_model import small_conversion

CALLED_ELSEWHERE = """
import sys, threading
from pathlib import Path
import numpy as np
from multimodal_embedding_serving.backends.openvino import compile_graph
from multimodal_embedding_serving.settings import Settings

def call(graph):
    for count in (2, 1, 4, 4):
        graph([np.random.randint(0, 256, (16, 16, 3), np.uint8) for _ in range(count)])

for _ in range(60):
    graph = compile_graph(Path(sys.argv[1]), Settings(precision="f32", model_cache=False))
    call(graph)
    thread = threading.Thread(target=call, args=(graph,))
    thread.start()
    thread.join()
    graph.close()
    del graph
print("closed", flush=True)
"""
CHECKED_HEAP = {
    "LD_PRELOAD": "libc_malloc_debug.so.0",
    "MALLOC_CHECK_": "3",
    "MALLOC_PERTURB_": "165",
}
"""glibc's own checks: a mutex in freed memory is noticed. Ignored where they are not installed."""


def test_the_threads_that_called_a_graph_may_end_when_it_is_closed(tmp_path: Path) -> None:
    bundle = build_bundle(small_conversion(), tmp_path / "small")
    done = subprocess.run(
        [sys.executable, "-c", CALLED_ELSEWHERE, str(bundle.graph("image"))],
        env={**os.environ, **CHECKED_HEAP},
        capture_output=True,
        text=True,
        check=False,
    )
    # After this line glibc's checks may stumble, at exit, over memory from before they were loaded.
    assert done.stdout == "closed\n", done.stderr
