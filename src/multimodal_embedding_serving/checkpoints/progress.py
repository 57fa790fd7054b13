"""How far a long job is, as a callback."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""(stage, bytes done, bytes in all): equal in a stage's last call; a retry may step back."""


def ignore(stage: str, done: int, total: int) -> None:
    """The callback of those who do not ask."""
