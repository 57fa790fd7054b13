"""How much a HEIC makes its decoder decode, from its header.

An image may be composed: a grid refers to tiles, an image to its alpha. libheif bounds what is
decoded of an item by the size in the item's properties, but not the tiles by the size of the grid:
a file of 11 KB with a grid of 64 x 64 pixels took 5 s for 64 tiles of 12 megapixels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from multimodal_embedding_serving.errors import InvalidInput

Box = tuple[bytes, int, int]
"""Type, and where the content begins and ends."""
MAX_DEPTH = 8
"""Levels of composition; phones write two."""


def pixels_to_decode(data: bytes) -> tuple[int, int]:
    """Pixels of the largest item of the primary image, and of all of its items together.

    Raises InvalidInput if the image is composed of itself or too deep, struct.error if the header
    is cut off.
    """
    items = Items()
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"meta":
            items.read(data, start + 4, end)
    total = items.count(items.primary)
    return max((items.sizes.get(item, 0) for item in items.totals), default=0), total


@dataclass(slots=True)
class Items:
    """The items of a file, by their number."""

    primary: int = 0
    sizes: dict[int, int] = field(default_factory=dict)
    """Pixels of each item."""
    parts: dict[int, list[int]] = field(default_factory=dict)
    """What an item is composed of: tiles, and alpha."""
    totals: dict[int, int] = field(default_factory=dict)
    """Pixels of each item with its parts, as far as they were counted."""

    def count(self, item: int, depth: int = 0) -> int:
        """Pixels that are decoded for an item: what is referred to twice is decoded twice."""
        if depth > MAX_DEPTH:
            raise InvalidInput("could not decode the image: it is composed in too many levels")
        if item not in self.totals:
            below = sum(self.count(part, depth + 1) for part in self.parts.get(item, ()))
            self.totals[item] = self.sizes.get(item, 0) + below
        return self.totals[item]

    def read(self, data: bytes, start: int, end: int) -> None:
        """The content of a `meta` box."""
        for kind, first, last in _boxes(data, start, end):
            if kind == b"pitm":
                (self.primary,) = struct.unpack_from(_id(data, first), data, first + 4)
            elif kind == b"iref":
                self._read_references(data, first, last)
            elif kind == b"iprp":
                self._read_sizes(data, first, last)

    def _read_references(self, data: bytes, start: int, end: int) -> None:
        number = _id(data, start)
        size = struct.calcsize(number)
        for kind, first, _ in _boxes(data, start + 4, end):
            (origin,) = struct.unpack_from(number, data, first)
            (count,) = struct.unpack_from(">H", data, first + size)
            targets = struct.unpack_from(f">{count}{number[1]}", data, first + size + 2)
            if kind == b"dimg":
                self.parts.setdefault(origin, []).extend(targets)
            elif kind == b"auxl":  # the other way round: alpha refers to its image
                for target in targets:
                    self.parts.setdefault(target, []).append(origin)

    def _read_sizes(self, data: bytes, start: int, end: int) -> None:
        boxes = list(_boxes(data, start, end))
        properties: list[int] = []
        for kind, first, last in boxes:
            if kind == b"ipco":
                for name, place, _ in _boxes(data, first, last):
                    size = struct.unpack_from(">II", data, place + 4) if name == b"ispe" else (0, 0)
                    properties.append(size[0] * size[1])
        for kind, first, _ in boxes:
            if kind == b"ipma":
                self._associate(data, first, properties)

    def _associate(self, data: bytes, start: int, properties: list[int]) -> None:
        number, wide = _id(data, start), data[start + 3] & 1
        (count,) = struct.unpack_from(">I", data, start + 4)
        place = start + 8
        for _ in range(count):
            item, used = struct.unpack_from(number + "B", data, place)
            place += struct.calcsize(number + "B")
            indexes = struct.unpack_from(f">{used}{'H' if wide else 'B'}", data, place)
            place += used * (2 if wide else 1)
            for index in indexes:
                index &= 0x7FFF if wide else 0x7F
                if 0 < index <= len(properties):
                    self.sizes[item] = max(self.sizes.get(item, 0), properties[index - 1])


def _id(data: bytes, start: int) -> str:
    """How a box of this version writes the numbers of items."""
    return ">I" if data[start : start + 1] > b"\0" else ">H"


def _boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        size = size or end - start  # 0: to the end
        if size < head:
            return
        yield kind, start + head, min(start + size, end)
        start += size
