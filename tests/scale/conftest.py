"""A Ray cluster of several nodes: processes of this machine, as separate as machines are to Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that computes nothing, and two nodes; this process is connected to it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # no outbound attempt
    # Where auto means bf16, a vector differs in its last bits from one batch to another.
    os.environ["EMBEDDING_PRECISION"] = "f32"
    # Ray would send the tests' folder and environment along otherwise.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(2):
        nodes.add_node(num_cpus=1)
    ray.init(address=nodes.address, log_to_driver=True)
    yield nodes
    ray.shutdown()
    nodes.shutdown()
