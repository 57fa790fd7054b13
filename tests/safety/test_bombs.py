"""Small files that expand: rejected by their header, or decoded within the budget."""

from __future__ import annotations

import base64
import io
import struct
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import httpx2
import pytest
from PIL import Image

from tests.conftest import Figure
from tests.media_files import write_image
from tests.safety.soak_clients import resident
from tests.serving import PATIENCE, Running

BUDGET = 512 << 20
"""Memory for all concurrent decoding (safety.md)."""
SIDE = 8000
"""Pixels: 8000 x 8000 is just within the limit, and takes 256 MB decoded."""
IMAGES = 3
"""Two at once would take twice the budget."""
MAX_RETAINED = IMAGES * (64 << 20)
"""Freed blocks that glibc may keep at the top of each thread's arena, which nothing trims."""


def huge_png() -> bytes:
    """100,000 x 100,000 pixels by its header; its data would be 10 GB of zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def huge_gif() -> bytes:
    """65,535 x 65,535 pixels by its screen and by its frame."""
    size = struct.pack("<HH", 65_535, 65_535)
    good = write_image("gif")
    at = good.index(b",", 13)
    return good[:6] + size + good[10 : at + 5] + size + good[at + 9 :]


def huge_tiff() -> bytes:
    """4 billion pixels in one strip of nothing."""
    tags = [(256, 4, 1, 65_536), (257, 4, 1, 65_536), (258, 3, 1, 8), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 1), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 65_536), (279, 4, 1, 1)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


def huge_webp() -> bytes:
    """16,384 x 16,384 pixels by its extended header."""
    side = (16_384 - 1).to_bytes(3, "little")
    extended = b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + side + side
    body = b"WEBP" + extended + write_image("webp")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


BOMBS: dict[str, Callable[[], bytes]] = {
    "png": huge_png, "gif": huge_gif, "tiff": huge_tiff, "webp": huge_webp
}  # fmt: skip


def embed(running: Running, data: bytes) -> httpx2.Response:
    coded = base64.b64encode(data).decode()
    body = {"input": {"type": "image_base64", "image_base64": coded}}
    return httpx2.post(f"{running.url}/embeddings", json=body, timeout=PATIENCE, trust_env=False)


class Peak:
    """The peak private memory of a process inside the `with` block, in bytes."""

    def __init__(self, pid: int) -> None:
        self.before = self.bytes = resident(pid)
        self._pid, self._over = pid, threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            self.bytes = max(self.bytes, resident(self._pid))


@pytest.mark.parametrize("kind", BOMBS)
def test_a_header_that_lies_is_refused_before_it_takes_memory(kind: str, server: Running) -> None:
    data = BOMBS[kind]()
    with Peak(server.process.pid) as peak:
        answers = [embed(server, data) for _ in range(5)]
    assert {answer.status_code for answer in answers} <= {413, 422}
    assert answers[0].status_code == 413 or kind == "webp", answers[0].text
    assert peak.bytes - peak.before < 64 << 20


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "mode", ["RGB", pytest.param("L", marks=SLOW), pytest.param("RGBA", marks=SLOW)]
)
def test_many_large_images_at_once_stay_within_the_budget(
    mode: str, server: Running, figure: Figure
) -> None:
    out = io.BytesIO()
    Image.new(mode, (SIDE, SIDE)).save(out, "PNG")
    data = out.getvalue()
    assert len(data) < 500_000
    with Peak(server.process.pid) as peak, ThreadPoolExecutor(IMAGES) as pool:
        answers = list(pool.map(lambda _: embed(server, data), range(IMAGES)))
    assert {answer.status_code for answer in answers} == {200}
    grown, retained = peak.bytes - peak.before, resident(server.process.pid) - peak.before
    label = f"{IMAGES} {mode} images of 64 megapixels at once"
    figure(f"{label}: {grown >> 20} MB more at most, {retained >> 20} MB retained")
    assert grown < BUDGET + (64 << 20)
    assert retained < MAX_RETAINED
