"""Libraries that are imported at their first use.

Loading torch, transformers and other people's clients takes longer than collecting all the tests;
most runs need none of them. A rule in test_house.py holds the tests to this.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any


class _LazyModule:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        # pytest asks everything in a test module for private marks while it collects.
        if attribute.startswith("_") and attribute != "__version__":
            raise AttributeError(attribute)
        return getattr(import_module(self._name), attribute)


def lazy(name: str) -> Any:
    """A stand-in for the module: asking it for an attribute imports the module."""
    return _LazyModule(name)


def has_cuda() -> bool:
    """Whether torch finds a CUDA device; torch is asked only where the driver is loaded."""
    return Path("/dev/nvidiactl").exists() and bool(lazy("torch").cuda.is_available())
