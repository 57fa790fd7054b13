"""Damaged videos: a number means one image, whatever else is asked for and however it is reached."""

from __future__ import annotations

import io
from collections.abc import Callable

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multimodal_embedding_serving.errors import EmbeddingError
from multimodal_embedding_serving.media.video import Frame, MissingFrame, Segment, read_frames
from tests.media.test_video_oracle import ALL, FRAMES, LIMITS, PAIRS, video

Place = tuple[float, int]
"""Where damage begins, as a fraction of the file, and how many bytes it has."""
Damage = Callable[[bytearray, int, int], None]


def overwritten(data: bytearray, start: int, length: int) -> None:
    length = min(length, len(data) - start)
    data[start : start + length] = np.random.default_rng(start).bytes(length)


def zeroed(data: bytearray, start: int, length: int) -> None:
    data[start : start + length] = bytes(min(length, len(data) - start))


def cut_out(data: bytearray, start: int, length: int) -> None:
    del data[start : start + length]


def lost_packets(data: bytearray, start: int, length: int) -> None:
    """Whole packets of a transport stream."""
    del data[start // 188 * 188 :][: 188 * (1 + length % 4)]


DAMAGES: list[Damage] = [overwritten, zeroed, cut_out, lost_packets]
damaged_videos = given(
    pair=st.sampled_from([(form, codec) for form, codecs in PAIRS.items() for codec in codecs]),
    damage=st.sampled_from(DAMAGES),
    places=st.lists(
        st.tuples(st.floats(0, 0.999), st.sampled_from([1, 2, 8, 101, 400, 3000])),
        min_size=1,
        max_size=3,
    ),
    numbers=st.sets(st.integers(0, FRAMES - 1), min_size=1, max_size=8),
    threads=st.integers(1, 4),
)


def check(
    pair: tuple[str, str], damage: Damage, places: list[Place], numbers: set[int], threads: int
) -> None:
    data = bytearray(video(*pair))
    for place, length in places:
        damage(data, int(place * len(data)), length)
    damaged = bytes(data)
    try:
        row = list(read_frames(damaged, ALL, LIMITS, threads=threads))
    except EmbeddingError:
        return
    times = [each.timestamp for each in row]
    assert times == sorted(times)
    assert [each.index for each in row] == list(range(len(row)))
    numbers = {number for number in numbers if number < len(row)}
    for group in (*[{number} for number in numbers], numbers):
        if not group:
            continue
        segment = Segment(frame_indexes=tuple(group))
        some = list(read_frames(damaged, segment, LIMITS, threads=threads))
        assert [each.index for each in some] == sorted(group)
        for each in some:
            check_same(each, row[each.index])


def check_same(sampled: Frame | MissingFrame, expected: Frame | MissingFrame) -> None:
    assert type(sampled) is type(expected), expected
    assert sampled.timestamp == expected.timestamp
    if isinstance(sampled, Frame) and isinstance(expected, Frame):
        assert np.array_equal(sampled.rgb, expected.rgb), expected.index


@settings(max_examples=60, deadline=None, derandomize=True)
@damaged_videos
@example(("mpegts", "libx264"), overwritten, [(0.859375, 101)], {37}, 2)
@example(("avi", "ffv1"), overwritten, [(0.33, 1)], {2, 20, 31}, 2)
@example(("webm", "libvpx"), overwritten, [(0.641, 400), (0.453, 2)], {14, 30}, 2)
@example(("matroska", "mpeg4"), overwritten, [(0.559, 8)], {22}, 2)
@example(("flv", "flv"), overwritten, [(0.89, 2), (0.862, 3000)], {36}, 2)
@example(("mov", "prores"), overwritten, [(0.333, 101), (0.502, 400)], {4, 23}, 3)
def test_a_number_of_a_damaged_video_means_one_image(
    pair: tuple[str, str], damage: Damage, places: list[Place], numbers: set[int], threads: int
) -> None:
    check(pair, damage, places, numbers, threads)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None)
@damaged_videos
def test_a_number_means_one_image_in_thousands_of_damaged_videos(
    pair: tuple[str, str], damage: Damage, places: list[Place], numbers: set[int], threads: int
) -> None:
    check(pair, damage, places, numbers, threads)


def key_frames(data: bytes) -> list[av.Packet]:
    with av.open(io.BytesIO(data), "r") as container:
        return [packet for packet in container.demux(video=0) if packet.is_keyframe]


@pytest.mark.parametrize("pair", [("mp4", "libx264"), ("matroska", "libx265"), ("mp4", "mpeg4")])
def test_after_a_damaged_key_frame_a_number_means_one_image(pair: tuple[str, str]) -> None:
    data = bytearray(video(*pair))
    hit = key_frames(bytes(data))[2]
    assert hit.pos is not None
    middle = hit.pos + hit.size // 2
    zeroed(data, middle, hit.size // 4)
    row = list(read_frames(bytes(data), ALL, LIMITS, threads=2))
    assert len(row) == FRAMES
    for number in range(20, FRAMES):
        segment = Segment(frame_indexes=(number,))
        (alone,) = read_frames(bytes(data), segment, LIMITS, threads=2)
        check_same(alone, row[number])


def test_a_packet_without_a_frame_keeps_its_number() -> None:
    data = bytearray(video("mp4", "mjpeg"))
    hit = key_frames(bytes(data))[20]
    assert hit.pos is not None
    zeroed(data, hit.pos, hit.size)
    frames = list(read_frames(bytes(data), ALL, LIMITS))
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert [frame.index for frame in frames if isinstance(frame, MissingFrame)] == [20]
    (alone,) = read_frames(bytes(data), Segment(frame_indexes=(20,)), LIMITS)
    assert isinstance(alone, MissingFrame)
    assert alone.timestamp == pytest.approx(20 / 25)


@pytest.mark.parametrize("codec", ["mjpeg", "prores"])
def test_a_frame_that_is_partly_damaged_is_missing_where_nothing_is_concealed(codec: str) -> None:
    data = bytearray(video("mov", codec))
    hit = key_frames(bytes(data))[20]
    assert hit.pos is not None
    overwritten(data, hit.pos + hit.size // 2, hit.size // 3)
    frames = list(read_frames(bytes(data), ALL, LIMITS, threads=2))
    assert [frame.index for frame in frames if isinstance(frame, MissingFrame)] == [20]
