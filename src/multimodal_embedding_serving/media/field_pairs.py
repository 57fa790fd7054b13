"""H.264 with a picture for each field: tells the packet that completes a frame from the others.

Broadcasts and camcorders store the two fields of an interlaced frame as pictures of their own, and
a transport stream gives each its own packet. The decoder shows one frame for both. Only what the
slice header needs is read (ITU-T H.264, 7.3); what can't be read counts as a whole frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

SLICES, SPS, PPS = (1, 5), 7, 8
"""Types of units."""
START = b"\0\0\1"
MAX_HEAD_BYTES = 64
"""Of a slice: its header's first fields."""
MAX_SET_BYTES = 4096
"""Of a parameter set; its scaling lists take at most 800."""
MAX_UNITS = 1024
"""In a packet; an undamaged one has far fewer."""
LONG_PROFILES = (44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244)
"""Profiles whose parameter sets name the chroma format and scaling lists."""


class _Bits:
    """Reads syntax elements. Raises IndexError at the end."""

    def __init__(self, payload: bytes) -> None:
        self._data, self._place = payload.replace(b"\0\0\3", b"\0\0"), 0

    def u(self, length: int) -> int:
        value = 0
        for _ in range(length):
            byte = self._data[self._place >> 3]
            value = value << 1 | byte >> (7 - (self._place & 7)) & 1
            self._place += 1
        return value

    def ue(self) -> int:
        zeros = 0
        while not self.u(1):
            zeros += 1
        return (1 << zeros) - 1 + self.u(zeros)

    def se(self) -> int:
        code = self.ue()
        return (code + 1) // 2 if code % 2 else -(code // 2)


@dataclass(frozen=True, slots=True)
class _Sequence:
    frame_number_bits: int
    separate_planes: bool
    fields: bool
    """Whether a picture may be a field."""


class FieldPairs:
    """Give it the packets of one track in order: it says which are the second field of a frame."""

    def __init__(self, extradata: bytes | None) -> None:
        self._sequences: dict[int, _Sequence] = {}
        self._pictures: dict[int, int] = {}
        """From a picture parameter set to its sequence parameter set."""
        self._length_bytes = 0
        """Before each unit, in containers that store lengths instead of start codes."""
        self._first: tuple[int, bool] | None = None
        """Frame number and parity of a first field that waits for its second."""
        if extradata and extradata[0] == 1 and len(extradata) > 6:
            self._length_bytes = (extradata[4] & 3) + 1
            for unit in _stored_sets(extradata):
                self._read_set(unit)
        elif extradata:
            self(extradata, True)

    def __call__(self, data: bytes, is_key: bool) -> bool:
        """Whether the packet is the second field of the frame that the packet before began."""
        if not is_key and not any(each.fields for each in self._sequences.values()):
            return False
        fields = set()
        for unit in islice(self._units(data), MAX_UNITS):
            kind = unit[0] & 31 if unit else 0
            if kind in (SPS, PPS):
                self._read_set(unit)
            elif kind in SLICES:
                fields.add(self._read_slice(unit))
        first, self._first = self._first, None
        field = fields.pop() if len(fields) == 1 else None
        if field is None:
            return False
        if first == (field[0], not field[1]):
            return True
        self._first = field
        return False

    def _units(self, data: bytes) -> Iterator[bytes]:
        place, size = 0, self._length_bytes
        if size:
            while place + size < len(data):
                length = int.from_bytes(data[place : place + size], "big")
                yield data[place + size : place + size + length]
                place += size + length
            return
        start = data.find(START)
        while start >= 0:
            end = data.find(START, start + 3)
            yield data[start + 3 : end if end >= 0 else len(data)]
            start = end

    def _read_set(self, unit: bytes) -> None:
        bits = _Bits(unit[1:MAX_SET_BYTES])
        with suppress(IndexError):
            if unit[0] & 31 == PPS:
                picture = bits.ue()
                self._pictures[picture] = bits.ue()
            else:
                number, sequence = _read_sequence(bits)
                self._sequences[number] = sequence

    def _read_slice(self, unit: bytes) -> tuple[int, bool] | None:
        """Frame number, and whether it is the bottom field; None: a whole frame."""
        bits = _Bits(unit[1:MAX_HEAD_BYTES])
        try:
            bits.ue(), bits.ue()  # the first macroblock, the type
            sequence = self._sequences[self._pictures[bits.ue()]]
            bits.u(2 * sequence.separate_planes)
            number = bits.u(sequence.frame_number_bits)
            return (number, bool(bits.u(1))) if sequence.fields and bits.u(1) else None
        except (IndexError, KeyError):
            return None


def _stored_sets(extradata: bytes) -> Iterator[bytes]:
    """The parameter sets of an avcC box (ISO/IEC 14496-15, 5.3.3)."""
    place = 5
    for mask in (31, 255):  # sequence, then picture parameter sets
        count = extradata[place] & mask if place < len(extradata) else 0
        place += 1
        for _ in range(count):
            length = int.from_bytes(extradata[place : place + 2], "big")
            if unit := extradata[place + 2 : place + 2 + length]:
                yield unit
            place += 2 + length


def _read_sequence(bits: _Bits) -> tuple[int, _Sequence]:
    """A sequence parameter set (7.3.2.1.1): its number, and what a slice header needs of it."""
    profile = bits.u(8)
    bits.u(16)
    number, separate = bits.ue(), False
    if profile in LONG_PROFILES:
        chroma = bits.ue()
        separate = chroma == 3 and bool(bits.u(1))
        bits.ue(), bits.ue(), bits.u(1)
        if bits.u(1):
            for place in range(12 if chroma == 3 else 8):
                if bits.u(1):
                    _skip_scaling_list(bits, 16 if place < 6 else 64)
    frame_number_bits = bits.ue() + 4
    order = bits.ue()
    if order == 0:
        bits.ue()
    elif order == 1:
        bits.u(1), bits.se(), bits.se()
        for _ in range(bits.ue()):
            bits.se()
    bits.ue(), bits.u(1), bits.ue(), bits.ue()  # references, gaps, width, height
    return number, _Sequence(frame_number_bits, separate, fields=not bits.u(1))


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se()) % 256
        last = following or last
