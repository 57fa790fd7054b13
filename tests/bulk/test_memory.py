"""A million inputs need no more memory than a few thousand."""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from multimodal_embedding_serving.bulk.items import Item, Source
from multimodal_embedding_serving.bulk.job import Options, Tally, run
from multimodal_embedding_serving.bulk.output import FileOutput
from multimodal_embedding_serving.monitoring.memory import MemoryPeak, private_memory
from multimodal_embedding_serving.types import Vector
from tests.bulk.fakes import FakeModel, vector
from tests.conftest import Figure

VECTOR = vector(b"any")


class Swift(FakeModel):
    """Answers at once, and remembers nothing."""

    async def image(self, source: Source) -> Vector:
        return VECTOR


def listing(count: int) -> Iterator[Item]:
    for number in range(count):
        path = f"/photos/{number % 1000:03}/{number:07}.jpg"
        yield Item(path, "image", path, f"1234:{number}")


def peak(count: int, out: Path) -> tuple[Tally, float]:
    """A run over `count` inputs, and Python's peak memory during it in MB."""
    tracemalloc.start()
    options = Options(part_rows=256)
    tally = asyncio.run(run(listing(count), Swift(), FileOutput(out), options))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return tally, peak_bytes / 1e6


def test_memory_does_not_grow_with_the_number_of_inputs(tmp_path: Path, figure: Figure) -> None:
    few, many = 1300, 4000
    _, small = peak(few, tmp_path / "few.npy")
    tally, large = peak(many, tmp_path / "many.npy")
    assert tally.rows == many
    assert large < 1.5 * small + 2
    again, repeated = peak(many, tmp_path / "many.npy")
    assert again.unchanged == many
    assert repeated < 1.5 * small + 2
    figure(
        f"bulk: {small:.1f} MB at most for {few:,} inputs, {large:.1f} MB for {many:,}, "
        f"{repeated:.1f} MB when they are done already"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_million_inputs_take_no_more_memory(tmp_path: Path, figure: Figure) -> None:
    """Measured by the system, for tracemalloc would take ten minutes. In a process of its own,
    because free memory that other tests left behind would hide growth."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        for expected, more in process.submit(million, tmp_path).result().items():
            figure(f"bulk: {more / 1e6:.0f} MB more for a million {expected}")
            assert more < 64e6


def million(folder: Path) -> dict[str, int]:
    """What a million inputs take above a few, in bytes: new ones, and those that are done."""
    asyncio.run(run(listing(20_000), Swift(), FileOutput(folder / "few.npy"), Options()))
    before = private_memory()
    growth = {}
    for expected in ("rows", "unchanged"):
        with MemoryPeak() as peak_memory:
            output = FileOutput(folder / "many.npy")
            tally = asyncio.run(run(listing(1_000_000), Swift(), output, Options()))
        assert getattr(tally, expected) == 1_000_000
        growth[expected] = peak_memory.bytes - before
    return growth
