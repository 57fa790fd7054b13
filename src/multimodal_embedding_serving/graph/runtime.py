"""OpenVINO, imported once and quietly: `from …graph.runtime import ov, opset`.

The wheel's own import loads its model converter, which sends a usage event over the network and
costs 0.4 s. This service converts nothing with it and never phones home, so both are hidden from
that import. The telemetry package stays hidden for the process's life: nncf would load it too,
and falls back to a stub as the converter does.
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
    """Around work on several graphs at a time.

    OpenVINO 2026.4 sets the C locale while it compiles, and afterwards what it had found. Of two
    threads the second finds the first one's C, and would leave the process in it: from then on
    Python's own open() reads and writes ASCII.
    """
    kept = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, kept)
