"""HEIC by pi-heif. The files are libheif's and x265's (`scripts/make_image_golden.py`)."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from multimodal_embedding_serving.errors import (
    InvalidInput,
    TooLarge,
    UnsupportedMedia,
)
from multimodal_embedding_serving.inputs.media_access import MediaAccess
from multimodal_embedding_serving.media.formats import recognize
from multimodal_embedding_serving.media.heif import pixels_to_decode
from multimodal_embedding_serving.media.image import ImageLimits, decode_rgb
from multimodal_embedding_serving.settings import Settings
from tests.media_files import photo

GOLDEN = Path(__file__).parent.parent / "golden" / "heic"
LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=10**6, formats=("HEIF",))
NAMES = sorted(path.stem for path in GOLDEN.glob("*.heic"))


def heic(name: str) -> bytes:
    return (GOLDEN / f"{name}.heic").read_bytes()


def with_size(data: bytes, width: int, height: int) -> bytes:
    """The file with another size in the properties of its image."""
    place = data.index(b"ispe") + 8
    return data[:place] + struct.pack(">II", width, height) + data[place + 8 :]


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def full_box(kind: bytes, body: bytes, version: int = 0) -> bytes:
    return box(kind, bytes([version, 0, 0, 0]) + body)


def grid(tile: bytes, rows: int, columns: int, size: tuple[int, int]) -> bytes:
    """A HEIC as phones write it: item 1 is a grid of the same tile, which `tile` has."""

    def part(kind: bytes) -> bytes:
        start = tile.index(kind) - 4
        return tile[start : start + int.from_bytes(tile[start : start + 4], "big")]

    tiles = range(2, 2 + rows * columns)
    pixels = part(b"mdat")[8:]
    layout = bytes([0, 1, rows - 1, columns - 1]) + struct.pack(">II", *size)
    infos = [full_box(b"infe", struct.pack(">HH4sx", 1, 0, b"grid"), 2)]
    infos += [full_box(b"infe", struct.pack(">HH4sx", each, 0, b"hvc1"), 2) for each in tiles]
    references = struct.pack(f">HH{len(tiles)}H", 1, len(tiles), *tiles)
    properties = part(b"hvcC") + part(b"ispe") + full_box(b"ispe", struct.pack(">II", *size))
    used = struct.pack(">IHBB", 1 + len(tiles), 1, 1, 3)
    used += b"".join(struct.pack(">HBBB", each, 2, 0x81, 2) for each in tiles)

    def head(offset: int) -> bytes:
        places = struct.pack(">HHHHII", 1, 1, 0, 1, 0, len(layout))
        for each in tiles:
            places += struct.pack(">HHHHII", each, 0, 0, 1, offset, len(pixels))
        body = (
            full_box(b"hdlr", bytes(4) + b"pict" + bytes(13))
            + full_box(b"pitm", struct.pack(">H", 1))
            + full_box(b"iloc", struct.pack(">BBH", 0x44, 0, len(infos)) + places, 1)
            + full_box(b"iinf", struct.pack(">H", len(infos)) + b"".join(infos))
            + full_box(b"iref", box(b"dimg", references))
            + box(b"iprp", box(b"ipco", properties) + full_box(b"ipma", used))
            + box(b"idat", layout)
        )
        return box(b"ftyp", b"heic" + bytes(4) + b"mif1heic") + full_box(b"meta", body)

    return head(len(head(0)) + 8) + box(b"mdat", pixels)


def test_a_grid_of_tiles_is_one_image() -> None:
    tile = np.asarray(decode_rgb(heic("plain"), LIMITS))
    data = grid(heic("plain"), 2, 3, (250, 120))
    assert pixels_to_decode(data) == (250 * 120, 250 * 120 + 6 * 96 * 64)
    assert np.array_equal(
        np.asarray(decode_rgb(data, LIMITS)), np.tile(tile, (2, 3, 1))[:120, :250]
    )


def test_tiles_count_even_if_the_grid_is_small() -> None:
    """libheif would decode them all: 64 tiles of 12 megapixels for 64 x 64 pixels."""
    many = grid(heic("plain"), 10, 10, (64, 64))
    tight = ImageLimits(max_bytes=1 << 20, max_pixels=100_000, formats=("HEIF",))
    assert decode_rgb(many, LIMITS).size == (64, 64)
    with pytest.raises(TooLarge, match=r"parts of 0\.6185 megapixels"):
        decode_rgb(many, tight)
    one = ImageLimits(max_bytes=1 << 20, max_pixels=6000, formats=("HEIF",))
    with pytest.raises(TooLarge, match=r"the largest of 0\.006144"):
        decode_rgb(grid(heic("plain"), 1, 1, (64, 64)), one)


def test_an_image_that_is_composed_of_itself_is_a_422() -> None:
    data = grid(heic("plain"), 1, 1, (64, 64)).replace(
        b"dimg" + struct.pack(">HHH", 1, 1, 2), b"dimg" + struct.pack(">HHH", 1, 1, 1)
    )
    with pytest.raises(InvalidInput, match="levels"):
        decode_rgb(data, LIMITS)


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_heic_shows_the_image(name: str) -> None:
    """Turned by its header, of 10 and 12 bits, with alpha, and the primary one of several."""
    image = photo(97, 63) if name == "odd" else photo(96, 64)
    result = decode_rgb(heic(name), LIMITS)
    if name.startswith("turned"):
        image.getexif()[0x0112] = int(name[-1])
        image = ImageOps.exif_transpose(image)
    if name == "gray":
        image = image.convert("L").convert("RGB")
    off = np.asarray(result).astype(np.int16) - np.asarray(image).astype(np.int16)
    assert np.abs(off).mean() < 3


def test_all_kinds_are_recognized() -> None:
    assert len(NAMES) == 14
    assert {recognize(heic(name)) for name in NAMES} == {"HEIF"}


def test_the_limit_is_checked_before_decoding() -> None:
    for size in ((1000, 1001), (100_000, 100_000), (2**31, 2**31 - 1)):
        with pytest.raises((TooLarge, InvalidInput)) as raised:
            decode_rgb(with_size(heic("plain"), *size), LIMITS)
        assert size[0] > 1000 or isinstance(raised.value, TooLarge)


def test_a_header_that_lies_about_the_size_is_a_422() -> None:
    """libheif bounds what libde265 may decode by the header's size."""
    for size in ((8, 8), (96, 32), (960, 640)):
        with pytest.raises(InvalidInput):
            decode_rgb(with_size(heic("plain"), *size), LIMITS)


def test_a_truncated_heic_is_a_422() -> None:
    data = heic("plain")
    for length in (40, 200, len(data) // 2, len(data) - 40):
        with pytest.raises(InvalidInput):
            decode_rgb(data[:length], LIMITS)


def test_without_its_decoder_heic_is_a_415_that_names_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    with pytest.raises(UnsupportedMedia, match="pip install pi-heif") as raised:
        decode_rgb(heic("plain"), LIMITS)
    assert raised.value.status == 415


def test_heic_can_be_excluded() -> None:
    limits = ImageLimits(max_bytes=1 << 20, max_pixels=10**6, formats=("JPEG",))
    with pytest.raises(UnsupportedMedia, match="EMBEDDING_IMAGE_FORMATS"):
        decode_rgb(heic("plain"), limits)


@pytest.fixture(scope="module")
def media() -> Iterator[MediaAccess]:
    access = MediaAccess.from_settings(Settings(max_image_mpix=1), lambda kind, size: None)
    yield access
    access.close()


def decode_as_the_service_does(media: MediaAccess, data: bytes) -> Image.Image:
    with media.budget.share() as reserve:
        return media.decode_image(data, min_side=0, copied=False, reserve=reserve)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are Linux's own")
def test_a_heic_that_crashes_its_decoder_costs_only_its_own_request(media: MediaAccess) -> None:
    crashing = heic("turned_6").replace(b"Exif", b"Ex\xd4f")
    for _ in range(2):
        with pytest.raises(InvalidInput, match="could not decode the image"):
            decode_as_the_service_does(media, crashing)
        image = decode_as_the_service_does(media, heic("plain"))
        assert np.array_equal(np.asarray(image), np.asarray(decode_rgb(heic("plain"), LIMITS)))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are Linux's own")
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(NAMES),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_mutated_heics_raise_nothing_but_embedding_errors(
    media: MediaAccess, name: str, edits: list[tuple[float, int]], cut: float
) -> None:
    data = bytearray(heic(name))
    for place, value in edits:
        data[int(place * (len(data) - 1))] = value
    mutated = bytes(data[: int(cut * len(data))])
    with suppress(InvalidInput, TooLarge, UnsupportedMedia):
        assert decode_as_the_service_does(media, mutated).mode == "RGB"
