"""Writes H.264 with a picture for each field (PAFF), which no encoder of PyAV's does."""

from __future__ import annotations

import io
from fractions import Fraction

import av

MACROBLOCKS = 2
"""In a row; a field has one row."""
GROUP = 12
"""Frames from one key frame to the next."""


class Bits:
    """The syntax elements of H.264 (7.2): u(n), ue(v), and se(v) for 0."""

    def __init__(self) -> None:
        self.text = ""

    def u(self, length: int, value: int) -> Bits:
        self.text += format(value, f"0{length}b")
        return self

    def ue(self, *values: int) -> Bits:
        for value in values:
            code = format(value + 1, "b")
            self.text += "0" * (len(code) - 1) + code
        return self

    def pcm(self, value: int) -> Bits:
        """A macroblock of one gray value, without compression (I_PCM)."""
        self.ue(25)
        self.text += "0" * (-len(self.text) % 8)
        self.text += format(value, "08b") * 256 + format(128, "08b") * 128
        return self

    def unit(self, header: int) -> bytes:
        text = self.text + "1"
        text += "0" * (-len(text) % 8)
        body = int(text, 2).to_bytes(len(text) // 8, "big")
        return b"\0\0\0\1" + bytes([header]) + body


def parameter_sets() -> bytes:
    sps = Bits().u(8, 77).u(8, 0).u(8, 30).ue(0, 0, 2, 1).u(1, 0).ue(MACROBLOCKS - 1, 0)
    sps.u(1, 0).u(1, 0).u(1, 1).u(1, 0).u(1, 0)  # fields are allowed, without MBAFF
    pps = Bits().ue(0, 0).u(2, 0).ue(0, 0, 0).u(3, 0).ue(0, 0, 0).u(3, 0)
    return sps.unit(0x67) + pps.unit(0x68)


def field(number: int, bottom: bool, value: int) -> bytes:
    place, key = number % GROUP, number % GROUP == 0 and not bottom
    slice_ = Bits().ue(0, 7, 0).u(4, place % 16).u(1, 1).u(1, bottom)
    if key:
        slice_.ue(number // GROUP % 2).u(2, 0)
    else:
        slice_.u(1, 0)
    slice_.ue(0)
    for _ in range(MACROBLOCKS):
        slice_.pcm(value)
    head = b"\0\0\0\1\x09\xf0" + (parameter_sets() if key else b"")
    return head + slice_.unit(0x65 if key else 0x61)


def field_video(form: str, frames: int, *, apart: bool, lost: int | None = None) -> bytes:
    """Frame i has the gray value 16 + 4 i. `apart`: each field is a packet of its own, of which
    the one with the number `lost` is left out."""
    out = io.BytesIO()
    with av.open(out, "w", format=form) as target:
        stream = target.add_stream("libx264", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 16 * MACROBLOCKS, 32, "yuv420p"
        for number in range(frames):
            halves = [field(number, bottom, 16 + 4 * number) for bottom in (False, True)]
            for half, data in enumerate(halves if apart else [b"".join(halves)]):
                if 2 * number + half == lost:
                    continue
                packet = av.Packet(data)
                packet.stream, packet.time_base = stream, Fraction(1, 50)
                packet.pts = packet.dts = 2 * number + half
                packet.is_keyframe = number % GROUP == 0 and half == 0
                target.mux(packet)
    return out.getvalue()
