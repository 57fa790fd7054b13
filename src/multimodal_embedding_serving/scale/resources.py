"""What a replica or an actor may use of its machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from multimodal_embedding_serving.settings import Settings

MAX_CPUS = 16
"""With more cores, two engines have a higher throughput than one."""
MIN_SHARE = 2
"""The divisor of what an actor usually gets, below which it waits for more to be free."""


def node_settings(environment: Mapping[str, str], cpus: float) -> Settings:
    """This machine's settings: its own environment, overridden by `environment`.

    Ray counts CPUs and does not enforce them: without a limit, an engine would use all of them.
    Raises SettingsError.
    """
    threads = str(max(1, math.floor(cpus)))
    bounds = {"OV_INFERENCE_NUM_THREADS": threads, "PREPROCESS_WORKERS": threads}
    return Settings.from_env(
        Settings.merge(Settings.merge(bounds, Settings.variables()), environment)
    )


@dataclass(frozen=True, slots=True)
class Share:
    """What one actor gets of a machine."""

    cpus: float
    gpus: float
    lacking: str | None = None
    """Why no actor can start now, and what to do; None if one can."""


def choose_share(
    nodes: Iterable[Mapping[str, Any]],
    free: Mapping[str, Mapping[str, float]],
    cpus: float = 0,
    gpus: float = 0,
) -> Share:
    """`nodes` are all machines of a cluster, `free` is what each has left, by its id.

    If `cpus` is 0, an actor gets all of the smallest machine, or at least half of that where other
    work, such as a replica of the server, uses the rest.
    """
    alive = [node for node in nodes if node["Alive"]]
    usual = cpus or usual_cpus(alive)
    left = [each.get("CPU", 0.0) for each in free.values() if each.get("GPU", 0.0) >= gpus]
    most = max(left, default=0.0)
    if most >= usual:
        return Share(usual, gpus)
    if not cpus and most >= 1 and most >= usual / MIN_SHARE:
        return Share(float(math.floor(most)), gpus)
    total = sum(node["Resources"].get("CPU", 0.0) for node in alive)
    need = f"{usual:g} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
    return Share(
        usual,
        gpus,
        f"waiting for the Ray cluster: an actor needs {need} on one machine, and of {total:g} CPUs "
        f"in all at most {most:g} are free on one; stop other work on it (`serve shutdown` stops "
        "the server's replicas), add a machine, or wait until work ends",
    )


def usual_cpus(nodes: Iterable[Mapping[str, Any]]) -> float:
    """The CPUs of the smallest machine that has any, so that an actor fits on each."""
    counts = [node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]]
    return float(min([*(cpus for cpus in counts if cpus >= 1), MAX_CPUS]))
