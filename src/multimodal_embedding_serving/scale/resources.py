"""What a replica or an actor may use of its machine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from multimodal_embedding_serving.settings import Settings

MAX_CPUS = 16
"""With more cores, two engines have a higher throughput than one."""


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


def usual_cpus(nodes: Iterable[Mapping[str, Any]]) -> float:
    """The CPUs of the smallest machine that has any, so that an actor fits on each."""
    counts = [node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"]]
    return float(min([*(cpus for cpus in counts if cpus >= 1), MAX_CPUS]))
