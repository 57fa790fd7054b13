"""Where the benchmark keeps what it makes; none of it is committed."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
CACHE = HERE / ".cache"
"""Checkpoints, inputs, converted models, the last figures."""
ENVIRONMENTS = HERE / ".envs"
"""One environment for each system that is measured, and one for the benchmark itself."""
