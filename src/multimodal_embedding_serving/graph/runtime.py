"""OpenVINO, imported once and quietly: `from …graph.runtime import ov, opset`.

Importing the wheel loads its model converter, which sends a usage event over the network and takes
0.4 s. This service does not use it and never phones home, so both are hidden from that import. The
telemetry package stays hidden for the life of the process: nncf would load it too, and falls back
to a stub as the converter does.
"""

from __future__ import annotations

import locale
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

_hidden = cast("dict[str, Any]", sys.modules)
_hidden["openvino_telemetry"] = None
_CONVERTER = "openvino.tools.ovc"
if _CONVERTER not in _hidden:
    _hidden[_CONVERTER] = None

import openvino as ov  # noqa: E402
import openvino.opset14 as opset  # noqa: E402

if _hidden[_CONVERTER] is None:
    del _hidden[_CONVERTER]

__all__ = ["keeping_locale", "opset", "ov"]


@contextmanager
def keeping_locale() -> Iterator[None]:
    """Restore the locale after work on several graphs at a time.

    OpenVINO 2026.4 sets the C locale while it compiles and then restores the previous one. With two
    threads, the second one reads the C locale of the first and restores that, which would leave the
    process in it: Python's own open() then reads and writes ASCII.
    """
    kept = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, kept)
