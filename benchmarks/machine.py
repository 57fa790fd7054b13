"""The machine that a run was measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.processes import PROC, busy_seconds

FLAGS = (
    "avx2", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "neon", "asimd", "sve", "bf16",
)  # fmt: skip
"""Instruction sets that affect the speed of a graph."""
DECISIVE = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")


def describe() -> dict[str, str]:
    cpuinfo = (PROC / "cpuinfo").read_text()
    flags = set(_line(cpuinfo, "flags").split()) | set(_line(cpuinfo, "Features").split())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return {
        "processor": _line(cpuinfo, "model name") or platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "instruction sets": " ".join(each for each in FLAGS if each in flags),
        "missing": " ".join(each for each in DECISIVE if each not in flags) or "none",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "commit": commit(),
        "load average before": " ".join(f"{each:.2f}" for each in os.getloadavg()),
        "cores busy before": f"{cores_busy(3.0):.2f}",
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def has_bf16(machine: Mapping[str, str]) -> bool:
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(machine["instruction sets"].split()))


def cores_busy(seconds: float) -> float:
    """The number of cores that are busy while this process sleeps."""
    busy, started = busy_seconds(), time.perf_counter()
    time.sleep(seconds)
    return (busy_seconds() - busy) / (time.perf_counter() - started)


def commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _line(text: str, name: str) -> str:
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
