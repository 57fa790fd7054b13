"""Images in processes of their own: the same pixels and errors, and a crash costs one image."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from multimodal_embedding_serving.engine import Engine
from multimodal_embedding_serving.errors import (
    DeadlineExceeded,
    EmbeddingError,
    InvalidInput,
    NotReady,
    TooLarge,
)
from multimodal_embedding_serving.media.budget import DecodeBudget
from multimodal_embedding_serving.media.decoder_pool import DecoderLimits, DecoderPool
from multimodal_embedding_serving.media.image import ImageLimits, decode_rgb
from multimodal_embedding_serving.media.image_decoding import ImageDecoding
from multimodal_embedding_serving.settings import IMAGE_FORMATS, Settings
from tests.media.lying import Lying
from tests.media.processes import eventually, memory_files, open_files, runs
from tests.media.test_heif import NAMES, heic
from tests.media_files import IMAGE_KINDS, photo, write_image, write_oriented

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are Linux's own")

LIMITS = ImageLimits(max_bytes=32 << 20, max_pixels=64_000_000, formats=tuple(IMAGE_FORMATS))
LARGE = write_image("png", Image.new("RGB", (3000, 2500), (1, 2, 3)))
"""More than what stays mapped for the next image."""


def free_memory(size: int, scratch: int = 0) -> None:
    """There is always enough."""


@pytest.fixture(scope="module")
def decoders() -> Iterator[DecoderPool]:
    pool = DecoderPool(1, 0, kind="image")
    yield pool
    pids = pool.pids
    pool.close()
    assert not any(map(runs, pids))


def decode(
    decoders: DecoderPool, data: bytes, *, min_side: int = 0, limits: ImageLimits = LIMITS
) -> Image.Image:
    decoding = ImageDecoding(decoders, limits, min_side=min_side, copied=False)
    return decoding.decode(data, free_memory)


def outcome(decoded: Callable[[], Image.Image]) -> object:
    """The pixels, or the error's type, message and field."""
    try:
        image = decoded()
        return image.size, image.tobytes()
    except EmbeddingError as error:
        return type(error), error.message, error.param


def same(decoders: DecoderPool, data: bytes, *, min_side: int = 0) -> None:
    """The process gives the pixels, or the error, that decoding here gives."""
    there = outcome(lambda: decode(decoders, data, min_side=min_side))
    assert there == outcome(lambda: decode_rgb(data, LIMITS, min_side=min_side))


@pytest.mark.parametrize("kind", IMAGE_KINDS)
def test_every_format_gives_the_pixels_that_it_gives_here(kind: str, decoders: DecoderPool) -> None:
    data = write_image(kind, photo(203, 97))
    same(decoders, data)
    same(decoders, data, min_side=20)
    same(decoders, data[: len(data) // 2])


@pytest.mark.parametrize("name", NAMES)
def test_heic_gives_the_pixels_that_it_gives_here(name: str, decoders: DecoderPool) -> None:
    same(decoders, heic(name))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image at all",
        write_image("png", Image.new("L", (9000, 9000))),
        write_oriented(photo(80, 48), 6),
        write_image("jpeg", photo(1, 5000)),
        write_image("png", photo(5000, 1)),
        write_image("jpeg", photo(4000, 3000)),
        write_image("jpeg")[:-2],
    ],
    ids="empty text large turned narrow wide 12mp unterminated".split(),
)
def test_odd_files_give_what_they_give_here(data: bytes, decoders: DecoderPool) -> None:
    same(decoders, data)
    same(decoders, write_image("webp"))


def test_one_process_decodes_one_image_after_the_other(decoders: DecoderPool) -> None:
    same(decoders, write_image("png"))
    first = decoders.pids
    for data in (write_image("png"), write_image("png", photo(900, 700)), LARGE):
        same(decoders, data)
        same(decoders, write_image("webp"))
    assert decoders.pids == first
    assert len(first) == 1


def test_many_images_at_once_are_each_its_own(decoders: DecoderPool) -> None:
    images = [Image.new("RGB", (40 + place, 30), (place, 2 * place, 0)) for place in range(60)]
    files = [write_image("png", image) for image in images]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda data: decode(decoders, data), files))
        assert len(decoders.pids) <= 4
    for result, image in zip(results, images, strict=True):
        np.testing.assert_array_equal(result, image)


def test_the_budget_is_asked_before_pixels_are_decoded(decoders: DecoderPool) -> None:
    data, asked = write_image("jpeg_progressive", photo(640, 480)), list[tuple[int, int]]()
    decode_rgb(data, LIMITS, reserve=lambda size, scratch=0: asked.append((size, scratch)))
    ImageDecoding(decoders, LIMITS, min_side=0, copied=False).decode(
        data, lambda size, scratch=0: asked.append((size, scratch))
    )
    (size, scratch), there = asked
    assert there == (size, scratch + size * 3 // 4)
    before = decoders.pids
    with DecodeBudget(1000).share() as reserve, pytest.raises(TooLarge, match="the limit is 0 MB"):
        ImageDecoding(decoders, LIMITS, min_side=0, copied=False).decode(data, reserve)
    same(decoders, data)
    assert decoders.pids == before, "and the process is none the worse for it"


class Held:
    """Lets a test do something to the process in the middle of an image."""

    def __init__(self, decoders: DecoderPool) -> None:
        self.decoders, self.pid = decoders, 0

    def reserve(self, size: int, scratch: int = 0) -> None:
        (job,) = self.decoders._busy
        self.pid = self.decoders._busy[job].pid
        self.act()

    def act(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_decoder_that_crashes_costs_its_image_only(number: int) -> None:
    pool = DecoderPool(1, 0, kind="image")
    held = Held(pool)
    held.act = lambda: os.kill(held.pid, number)  # type: ignore[method-assign]
    decoding = ImageDecoding(pool, LIMITS, min_side=0, copied=False)
    with pytest.raises(InvalidInput, match="the image: the decoder crashed on it"):
        decoding.decode(write_image("png"), held.reserve)
    same(pool, write_image("png"))
    assert held.pid not in pool.pids
    pool.close()


def test_a_decoder_that_is_lost_while_idle_costs_nothing(decoders: DecoderPool) -> None:
    same(decoders, write_image("png"))
    for pid in decoders.pids:
        os.kill(pid, signal.SIGKILL)
    same(decoders, write_image("png"))


def test_a_decoder_that_hangs_ends_in_a_504() -> None:
    pool = DecoderPool(1, 0, DecoderLimits(seconds=300), kind="image")
    decoding = ImageDecoding(pool, LIMITS, min_side=0, copied=False)
    held = Held(pool)

    def stop() -> None:
        os.kill(held.pid, signal.SIGSTOP)
        decoding.seconds_left = 0.2

    held.act = stop  # type: ignore[method-assign]
    with pytest.raises(DeadlineExceeded, match="the image was not decoded within 300 s"):
        decoding.decode(write_image("png"), held.reserve)
    assert eventually(lambda: not runs(held.pid))
    same(pool, write_image("png"))
    pool.close()


def test_closing_ends_what_runs_and_refuses_what_comes() -> None:
    pool = DecoderPool(1, 0, kind="image")
    held = Held(pool)
    held.act = pool.close  # type: ignore[method-assign]
    for reserve in (held.reserve, free_memory):
        with pytest.raises(NotReady):
            ImageDecoding(pool, LIMITS, min_side=0, copied=False).decode(
                write_image("png"), reserve
            )


def test_too_little_memory_is_an_error_of_the_image_alone() -> None:
    pool = DecoderPool(1, 0, DecoderLimits(memory=24 << 20), kind="image")
    with pytest.raises(TooLarge, match="not enough memory"):
        decode(pool, LARGE)
    same(pool, write_image("png"))
    pool.close()


def test_nothing_is_left_behind() -> None:
    def once() -> None:
        pool = DecoderPool(1, 0, kind="image")
        for data in (write_image("png"), LARGE, b"no image"):
            same(pool, data)
        pool.close()

    once()
    before = open_files(), len(memory_files())
    for _ in range(3):
        once()
    assert (open_files(), len(memory_files())) == before


RESERVE, ROOM = {"reserve": [4096, 0]}, {"room": 3 * 32 * 32}
END = {"end": True, "again": True}


@pytest.mark.parametrize(
    "says",
    [
        [END],
        [{**END, "size": [32, 32]}],
        [RESERVE, {**END, "size": [32, 32]}],
        [ROOM, {**END, "size": [32, 32]}],
        [RESERVE, RESERVE],
        [{"reserve": [-1, 0]}],
        [{"reserve": [1]}],
        [{"reserve": "all"}],
        [RESERVE, {"room": 0}],
        [RESERVE, {"room": 1 << 40}],
        [RESERVE, {"room": None}],
        [RESERVE, ROOM, {**END, "size": [5000, 5000]}],
        [RESERVE, ROOM, {**END, "size": [-32, -32]}],
        [RESERVE, ROOM, {**END, "size": [0, 0]}],
        [RESERVE, ROOM, {**END, "size": 32}],
        [RESERVE, ROOM, END],
        [RESERVE, ROOM],
        [RESERVE, {"error": "SystemExit", "message": "gone"}],
        [{"error": ["TooLarge"], "message": "gone"}],
        [{"other": 1}],
        [],
    ],
)
def test_what_a_process_says_is_not_believed(says: list[Mapping[str, Any]]) -> None:
    lying = Lying([{"taken": True}, *says], kind="image")
    with pytest.raises(InvalidInput, match="the decoder crashed on it"):
        decode(lying, write_image("png"))
    assert all(each.pixels is None for each in lying._idle), "it is not used again"
    lying.close()


def test_an_engine_gives_the_same_vectors(tmp_path: Path) -> None:
    files = [write_image(kind, photo(300, 200, seed)) for seed, kind in enumerate(IMAGE_KINDS[:6])]
    settings = Settings(models_dir=tmp_path, precision="f32")
    with Engine.open(settings=settings) as engine:
        expected = engine.embed_images(files)
    with Engine.open(settings=replace(settings, image_isolation=True)) as engine:
        np.testing.assert_allclose(engine.embed_images(files), expected, atol=1e-4)
        with pytest.raises(InvalidInput):
            engine.embed_images([files[0][:500]])
