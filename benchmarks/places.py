"""Where the benchmark stores its files; none of them is committed."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
CACHE = HERE / ".cache"
"""Checkpoints, inputs, converted models, the results of the last run."""
ENVIRONMENTS = HERE / ".envs"
"""An environment for each measured system, and one for the benchmark itself."""
