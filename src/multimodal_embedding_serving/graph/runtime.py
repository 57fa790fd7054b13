"""OpenVINO, imported once and quietly: `from …graph.runtime import ov, opset`.

The wheel's own import loads its model converter, which sends a usage event over the network and
costs 0.4 s. This service converts nothing with it and never phones home, so both are hidden from
that import. The telemetry package stays hidden for the process's life: nncf would load it too,
and falls back to a stub as the converter does.
"""

from __future__ import annotations

import sys
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

__all__ = ["opset", "ov"]
