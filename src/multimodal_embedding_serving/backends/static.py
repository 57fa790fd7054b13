"""Static shapes, for devices that compile nothing else: Intel's NPU.

Such a graph takes one item at a time. Texts are padded on the right to one length and masked; the
graph itself takes the last real token, so that the padding changes nothing. Sources: OpenVINO's
"Supported Devices" (dynamic shapes on NPU: no) and "Automatic Device Selection" (an NPU is used
where it is named, never by AUTO alone).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multimodal_embedding_serving.settings import Settings

STATIC = "NPU"
LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
"""EMBEDDING_STATIC_SEQ_LEN is rounded up to one of these; each is compiled and cached by itself."""
MAX_FULL_LENGTH = 512
"""A text tower with at most this many positions is always compiled at full length."""


@dataclass(frozen=True, slots=True)
class StaticShape:
    """One item; of a text, `length` tokens."""

    length: int | None

    def fix(self, model: Any) -> None:
        """Give an OpenVINO model of dynamic batch (and length) this shape."""
        shapes = {}
        for port in model.inputs:
            _, *rest = port.get_partial_shape()
            shapes[port.get_any_name()] = [1, self.length] if len(rest) == 1 else [1, *rest]
        model.reshape(shapes)


def is_static(device: str, available: Sequence[str] | None = None) -> bool:
    """Whether an OpenVINO device string resolves to a device that compiles static shapes only.

    HETERO and AUTO run a graph on the first of their devices that is available, MULTI on each.
    `available` lists the devices of this machine; None: ask OpenVINO.
    """
    if STATIC not in device:
        return False
    mode, colon, names = device.partition(":")
    kinds = [_kind(name) for name in (names if colon else device).split(",")]
    if mode == "MULTI":
        return STATIC in kinds
    present = {_kind(name) for name in (list_devices() if available is None else available)}
    return [kind for kind in kinds if kind in present or len(kinds) == 1][:1] == [STATIC]


def list_devices() -> list[str]:
    from multimodal_embedding_serving.graph.runtime import ov

    return list(ov.Core().available_devices)


def _kind(name: str) -> str:
    """NPU.0 and NPU(4) -> NPU; -NPU, which AUTO excludes, is unchanged."""
    return name.partition(".")[0].partition("(")[0]


def choose_shape(transform: Mapping[str, Any], settings: Settings) -> StaticShape:
    """The shape of a tower, from its preprocessing (a bundle's `transform`)."""
    longest = transform.get("max_length")
    if longest is None:
        return StaticShape(None)
    if longest <= MAX_FULL_LENGTH:
        return StaticShape(longest)
    limit = settings.text_limit(transform.get("default_length"))
    length = min(longest, limit, settings.static_length)
    return StaticShape(next(each for each in LENGTHS if each >= length))
