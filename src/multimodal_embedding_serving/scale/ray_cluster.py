"""The connection to a Ray cluster, and what it has free."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from multimodal_embedding_serving.errors import InvalidInput, MissingExtra
from multimodal_embedding_serving.scale.resources import Share, choose_share

try:
    import ray
    from ray._private.state import available_resources_per_node  # in no public module
except ModuleNotFoundError as error:
    raise MissingExtra("Ray", "ray") from error

CONNECT_SECONDS = 10.0
"""A cluster that answers takes two; Ray itself tries for 40 seconds and then some."""
CONNECTING = "connecting to Ray"
"""The name of the thread that connects."""


@contextmanager
def connect(address: str) -> Iterator[None]:
    """Connect to a cluster: at an address, `auto` (a running one) or `local` (start one).

    Raises InvalidInput if there is none, or if it does not answer within CONNECT_SECONDS.
    """
    failures: list[Exception] = []
    if address == "local":
        _init(address, failures)
    else:
        _init_in_time(address, failures)
    if failures:
        raise InvalidInput(f"no Ray cluster at {address}: {failures[0]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _init_in_time(address: str, failures: list[Exception]) -> None:
    thread = threading.Thread(
        target=_init, args=(address, failures), name=CONNECTING, daemon=True
    )  # Ray's call can't be interrupted
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not failures and not ray.is_initialized():
        raise InvalidInput(
            f"the Ray cluster at {address} did not answer within {CONNECT_SECONDS:.0f} s; check "
            "with `ray status` that it runs, and that its port can be reached from here; "
            "`--ray local` starts one on this machine"
        )


def _init(address: str, failures: list[Exception]) -> None:
    """Connect; append what prevents it to `failures`."""
    try:
        # Its warning is that a thread can't install signal handlers; ours are the default ones.
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        failures.append(error)


def find_share(cpus: float, gpus: float) -> Share:
    """What one actor gets of the cluster that this process is connected to.

    `cpus` 0: as many as the smallest machine has, or fewer where others use it now.
    """
    return choose_share(ray.nodes(), available_resources_per_node(), cpus, gpus)
