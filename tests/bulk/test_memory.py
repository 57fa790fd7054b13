"""A million inputs need no more memory than a few thousand."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from multimodal_embedding_serving.bulk.items import Item
from multimodal_embedding_serving.bulk.job import Options, Tally, run
from multimodal_embedding_serving.bulk.output import FileOutput
from multimodal_embedding_serving.types import Vector
from tests.bulk.fakes import FakeModel, vector
from tests.conftest import Figure

VECTOR = vector(b"any")


class Swift(FakeModel):
    """Answers at once, and remembers nothing."""

    async def image(self, source: Path | str) -> Vector:
        return VECTOR


def listing(count: int) -> Iterator[Item]:
    for number in range(count):
        path = f"/photos/{number % 1000:03}/{number:07}.jpg"
        yield Item(path, "image", path, f"1234:{number}")


def peak(count: int, out: Path) -> tuple[Tally, float]:
    """A run over so many inputs, and the most that Python held during it, in MB."""
    tracemalloc.start()
    options = Options(part_rows=256)
    tally = asyncio.run(run(listing(count), Swift(), FileOutput(out), options))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return tally, most / 1e6


@pytest.mark.parametrize(
    ("few", "many"), [(1300, 4000), pytest.param(20_000, 1_000_000, marks=pytest.mark.slow)]
)
def test_memory_does_not_grow_with_the_number_of_inputs(
    tmp_path: Path, figure: Figure, few: int, many: int
) -> None:
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
